"""The dataset service: owns datasets, examples and versions."""
