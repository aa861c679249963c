"""What a trained model is on disk and how to run one without torch.

Training, serving and every export use this one code: numpy, Pillow, onnxruntime.
"""
