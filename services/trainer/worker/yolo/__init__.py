"""YOLO by Ultralytics' own trainer, which is AGPL-3.0 software and the extra `yolo`. `child.py` and `trainer.py` run in
a process of their own, started by `quarantine.py`, and alone import it; the worker exchanges files and lines with it.
"""
