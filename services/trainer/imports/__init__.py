"""Exported zips taken back as model versions: taken for hostile until everything in them was checked and tried."""
