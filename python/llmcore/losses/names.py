"""The names of the losses that a stage can be asked for, in one place for functions, configurations and `--help`."""

DPO_LOSSES = (
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
    "discopop", "sigmoid_norm",
)  # fmt: skip
REFERENCE_FREE_LOSSES = ("simpo", "orpo")  # of pairs, like those of DPO
GRPO_LOSSES = ("grpo", "bnpo", "dapo", "dr_grpo", "cispo", "gspo")
GRPO_ANSWER_LOSSES = ("grpo", "gspo", "dr_grpo")  # means over answers; the others are means over tokens
