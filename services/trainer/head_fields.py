"""The fields that presets have which fit a convex head to features and cross-validate it: `fast` and `quality`."""

from services.trainer.fields import Field, Needs

REGULARIZATION_C = 1.0
# A head is fitted on the others, so there must be others.
MIN_FOLDS = 2
HEAD = (
    Field("num_epochs", "Most passes of the solver; it stops when it has converged.", 200, 1, 10_000, "epochs"),
    Field(
        "head",
        "How the head is fitted. AUTO: LDA where that is better out of fold by more than one standard error, else "
        "LOGISTIC_REGRESSION.",
        "AUTO",
        choices=("AUTO", "LOGISTIC_REGRESSION", "LDA"),
    ),
    Field(
        "regularization_c",
        "Inverse strength of the L2 penalty of logistic regression.",
        REGULARIZATION_C,
        1e-4,
        1e4,
        needs=Needs("head", ("AUTO", "LOGISTIC_REGRESSION"), 0.0),
    ),
    Field(
        "shrinkage",
        "How far the covariance of LDA is drawn towards a multiple of the identity.",
        0.3,
        1e-3,
        1.0,
        needs=Needs("head", ("AUTO", "LDA"), 0.0),
    ),
    Field(
        "num_folds",
        "Folds of the cross-validation: 2 or more, at most as many as the smallest class has groups of training "
        "examples; time grows with them. 0: 5, or as many as that class has groups.",
        0,
        0,
        50,
        "folds",
        unwritten=True,
    ),
    Field(
        "num_repeats",
        "How often the cross-validation is done, each time with other folds: intervals become narrower, and time grows "
        "with them. 0: 5, fewer of more than 120 training examples, of more than 300 one.",
        0,
        0,
        20,
        "repeats",
        unwritten=True,
    ),
)
