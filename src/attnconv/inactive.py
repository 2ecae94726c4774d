"""Thresholds below which attention counts as inactive, for runs, study reports and explanations."""

LOGITS_MOVED = 1e-3  # relative to the norm of the logits
PREDICTIONS_CHANGED = 0.1  # percent of the predictions


def is_inactive(logits_moved: float, predictions_changed: float) -> bool:
    """True if switching attention off moves the logits and changes predictions by less than both thresholds."""
    return logits_moved < LOGITS_MOVED and predictions_changed < PREDICTIONS_CHANGED


def remark(logits_moved: float, predictions_changed: float) -> str:
    """Return a remark for a run with inactive attention; "" if it is active."""
    if not is_inactive(logits_moved, predictions_changed):
        return ""
    changed = f"{predictions_changed:.2g} % of predictions" if predictions_changed else "no prediction"
    return f"attention inactive: switching it off changes {changed}"
