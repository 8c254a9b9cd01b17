"""x"""
import dataclasses
@dataclasses.dataclass(frozen=True)
class Run:
    """One finished run: its variant, its seed and length, mean IoU on held-out pairs and over its last training steps."""

    absolute: float
    positive: float
    force: float
    seed: int
    steps: int
    iou: float
    training_iou: float
class Table: pass
def write_report(*a): return ""
