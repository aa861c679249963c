"""The catalogue of presets: their fields with defaults, ranges and units, and which fields matter only with others.

Constants, with the measurements and papers behind them, are explained in docs/why.md.
"""

from dataclasses import replace

from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from services.trainer.fields import BOTH, PICTURES, Field, Needs, Preset
from services.trainer.head_fields import HEAD
from services.trainer.picture_fields import FIT, INPUT_SIZE
from services.trainer.sound_architectures import AUTO, CANDIDATES, SOUND_ARCHITECTURES

FAST = "fast"
QUALITY = "quality"
BASELINE = "baseline"
FINE_TUNE = "fine_tune"
# Those that fit a head to features, and train by no gradients: they need no torch but for a challenger, and keep no
# checkpoints.
OF_FEATURES = (FAST, QUALITY)
# How strong an augmented view is by default: a probability, degrees, the smallest share of the area, relative changes.
# The recipes that train a network draw such views anew in every epoch, `fast` once (`worker/views.py`).
VIEW = {
    "horizontal_flip": 0.5,
    "rotation_degrees": 15.0,
    "crop_scale": 0.8,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
}

_TRAINED = tuple(row.id for row in ARCHITECTURES.values() if not row.members)
_WEIGHTS = Field(
    "weights",
    "What the network starts from. AUTO: pretrained weights where they can be had, else random ones, all trained.",
    "PRETRAINED",
    choices=("PRETRAINED", "RANDOM", "AUTO"),
)
_COMMON = (
    Field("architecture", "Which network.", DEFAULT_ARCHITECTURE, choices=_TRAINED),
    _WEIGHTS,
    Field("seed", "Seed of everything random.", 0, 0, 2**31 - 1),
)
_FAST = (
    Field(
        "architecture",
        f"Which network, of the dataset's modality. For sounds the default is {AUTO}: what does best out of fold on "
        f"the training examples, of {', '.join(CANDIDATES)}.",
        DEFAULT_ARCHITECTURE,
        choices=(*ARCHITECTURES, AUTO, *SOUND_ARCHITECTURES),
    ),
    replace(_WEIGHTS, modalities=PICTURES),
    *_COMMON[2:],
    *HEAD,
    Field(
        "backbone_precision",
        "Numbers of the network. INT8: faster, smaller.",
        "FLOAT32",
        choices=("FLOAT32", "INT8"),
        modalities=PICTURES,
        unwritten=True,
    ),
    FIT,
    INPUT_SIZE,
    Field(
        "views",
        "Augmented views of each training picture that the head is fitted on beside the picture itself: crops, flips, "
        "rotations, changes of colour. Each takes as long as the picture does; they are kept. Pictures only.",
        0,
        0,
        16,
        "views",
        modalities=PICTURES,
    ),
)
_QUALITY = (
    Field(
        "architecture",
        f"Which network. {AUTO}: of those whose pretrained weights the worker has, the one that does best out of fold "
        "on the training examples.",
        AUTO,
        choices=(AUTO, *ARCHITECTURES),
    ),
    Field(
        "max_gflops",
        "Networks that need more for a picture are not tried; ListArchitectures says how much each needs.",
        10.0,
        0.01,
        1000.0,
        "GFLOPs",
        needs=Needs("architecture", (AUTO,), 0.0),
    ),
    Field(
        "challenger_epochs",
        "Epochs of fine-tuning the chosen network, once for each fold. It is published instead of the head where it is "
        "right more often out of fold by over one standard error. Minutes on an accelerator, an hour on a CPU; no "
        "networks side by side are tried then. 0: no.",
        0,
        0,
        1000,
        "epochs",
        unwritten=True,
    ),
    Field("weights", "What the networks start from.", "PRETRAINED", choices=("PRETRAINED",)),
    *_COMMON[2:],
    *HEAD,
)
_BASELINE = (
    *_COMMON,
    Field("num_epochs", "Passes over the training examples.", 10, 1, 1000, "epochs"),
    Field("learning_rate", "Step size of Adam.", 1e-4, 1e-8, 1.0),
    Field("batch_size", "Examples per step.", 8, 1, 512, "examples"),
    Field("weight_decay", "L2 penalty of Adam, added to the gradient.", 1e-4, 0.0, 1.0),
    Field("freeze", "What training leaves alone.", "BODY", choices=("BODY", "NONE")),
    Field(
        "frozen_mode",
        "How a frozen body runs. TRAIN: its batch normalisation follows the batches, which costs accuracy.",
        "EVAL",
        choices=("EVAL", "TRAIN"),
        needs=Needs("freeze", ("BODY",), "EVAL"),
    ),
    Field("target_size", "Smaller classes are topped up with repeats to this many.", 50, 0, 10_000, "examples"),
    replace(FIT, default="SQUASH"),
    INPUT_SIZE,
    Field("horizontal_flip", "Probability of a flip.", VIEW["horizontal_flip"], 0.0, 1.0),
    Field("rotation_degrees", "Largest rotation either way.", VIEW["rotation_degrees"], 0.0, 180.0, "degrees"),
    Field("brightness", "Largest relative change.", VIEW["brightness"], 0.0, 1.0),
    Field("contrast", "Largest relative change.", VIEW["contrast"], 0.0, 1.0),
    Field("saturation", "Largest relative change.", VIEW["saturation"], 0.0, 1.0),
)
_TRAINS_BODY = ("NONE", "FIRST_BLOCKS")
_FINE_TUNE = (
    *_COMMON,
    Field("num_epochs", "Passes over the training examples.", 20, 1, 1000, "epochs"),
    Field("batch_size", "Examples per step.", 8, 1, 512, "examples"),
    Field(
        "freeze",
        "What training leaves alone: the BODY, its FIRST_BLOCKS (`frozen_blocks`), or NONE of it. "
        "NONE where weights are RANDOM.",
        "NONE",
        choices=("BODY", "NONE", "FIRST_BLOCKS"),
    ),
    Field(
        "frozen_blocks",
        "How many blocks of the body are left alone, from the input on: fewer than the architecture's num_blocks.",
        5,
        0,
        max(row.num_blocks for row in ARCHITECTURES.values()) - 1,
        "blocks",
        needs=Needs("freeze", ("FIRST_BLOCKS",), 0),
    ),
    Field(
        "initial_head",
        "What the head starts from: RANDOM numbers, or what `fast` fits.",
        "FAST",
        choices=("RANDOM", "FAST"),
        needs=Needs("weights", ("PRETRAINED", "AUTO"), "RANDOM"),
    ),
    Field("optimizer", "How a gradient becomes a step.", "ADAMW", choices=("ADAMW", "ADAM", "SGD")),
    Field("momentum", "Momentum.", 0.9, 0.0, 0.999, needs=Needs("optimizer", ("SGD",), 0.0)),
    Field(
        "learning_rate",
        "Step size of the body's last block.",
        1e-4,
        1e-8,
        1.0,
        needs=Needs("freeze", _TRAINS_BODY, 0.0),
    ),
    Field(
        "layer_decay",
        "Each block's step size is that of the block after it times this.",
        0.9,
        0.01,
        1.0,
        needs=Needs("freeze", _TRAINS_BODY, 1.0),
    ),
    Field("head_learning_rate", "Step size of the head.", 1e-3, 1e-8, 1.0),
    Field("weight_decay", "Weight decay of matrices and filters; biases and norms have none.", 1e-3, 0.0, 1.0),
    Field(
        "schedule",
        "How step sizes change from step to step.",
        "COSINE",
        choices=("CONSTANT", "COSINE", "ONE_CYCLE"),
    ),
    Field(
        "warmup_epochs",
        "Epochs in which step sizes rise from near 0; fewer than num_epochs.",
        2,
        0,
        999,
        "epochs",
        needs=Needs("schedule", ("CONSTANT", "COSINE"), 0),
    ),
    Field("gradient_clip_norm", "Longer gradients are shortened to this; 0: none is.", 1.0, 0.0, 1000.0),
    Field(
        "early_stopping_epochs",
        "Stops after so many epochs without a lower val/loss and publishes the epoch with the lowest, whose val "
        "figures are then a little too good; 0: publishes the last epoch. No effect without validation examples.",
        0,
        0,
        1000,
        "epochs",
    ),
    Field(
        "precision",
        "Numbers of training. FLOAT16 on CUDA only; elsewhere float32 is taken, with a notice.",
        "FLOAT32",
        choices=("FLOAT32", "BFLOAT16", "FLOAT16"),
    ),
    Field(
        "class_weights", "BALANCED: every class counts the same in the loss.", "BALANCED", choices=("NONE", "BALANCED")
    ),
    Field("label_smoothing", "Share of each target spread over all classes.", 0.1, 0.0, 0.9),
    Field("mixup", "Alpha of mixup; 0: none. With cutmix too, each batch draws one of them.", 0.0, 0.0, 10.0),
    Field("cutmix", "Alpha of cutmix; 0: none. With mixup too, each batch draws one of them.", 0.0, 0.0, 10.0),
    Field("target_size", "Smaller classes are topped up with repeats to this many.", 0, 0, 10_000, "examples"),
    FIT,
    INPUT_SIZE,
    Field(
        "crop_scale", "Smallest share of the area that a random crop keeps; 1: no crop.", VIEW["crop_scale"], 0.05, 1.0
    ),
    Field("horizontal_flip", "Probability of a flip.", VIEW["horizontal_flip"], 0.0, 1.0),
    Field("vertical_flip", "Probability of a vertical flip.", 0.0, 0.0, 1.0),
    Field("rotation_degrees", "Largest rotation either way.", VIEW["rotation_degrees"], 0.0, 180.0, "degrees"),
    Field("brightness", "Largest relative change.", VIEW["brightness"], 0.0, 1.0),
    Field("contrast", "Largest relative change.", VIEW["contrast"], 0.0, 1.0),
    Field("saturation", "Largest relative change.", VIEW["saturation"], 0.0, 1.0),
    Field("hue", "Largest change, in turns of the colour circle.", 0.0, 0.0, 0.5, "turns"),
    Field(
        "auto_augmentation",
        "TRIVIAL_AUGMENT: one random change of 14, of random strength, after the others.",
        "NONE",
        choices=("NONE", "TRIVIAL_AUGMENT"),
    ),
    Field("random_erasing", "Probability that a random box is blackened.", 0.0, 0.0, 1.0),
)
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            FAST,
            "Seconds on a CPU, and the most accurate for a few examples: every picture goes through the network once, "
            "then a convex head is fitted to the optimum.",
            _FAST,
            BOTH,
        ),
        Preset(
            QUALITY,
            "As `fast`, on the network that does best on these very pictures: every one at hand is tried out of fold. "
            "Takes as many times longer as there are networks; the model answers as fast as its network is.",
            _QUALITY,
        ),
        Preset(
            FINE_TUNE,
            "Gradient training of the network itself, from the head that `fast` fits: for pictures unlike photographs "
            "of everyday things, and for an accelerator. Batch normalisation keeps its statistics, unless weights are "
            "RANDOM.",
            _FINE_TUNE,
        ),
        Preset(
            BASELINE,
            "The textbook recipe, to compare with: a new linear head on a frozen body, by Adam, on augmented views. A "
            "YOLO is trained by Ultralytics' own trainer, which has no rotation, one strength for brightness and "
            "contrast, and crops.",
            _BASELINE,
        ),
    )
}
