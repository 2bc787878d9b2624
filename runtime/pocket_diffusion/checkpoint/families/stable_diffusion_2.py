"""Stable Diffusion 2.0 and 2.1: the context comes from OpenCLIP."""

from pocket_diffusion.checkpoint.families.family import USUAL_DRAWING, Family, Traits


def _recognise(traits: Traits) -> str | None:
    return "by its text encoder" if traits.architecture == "stable-diffusion-2" else None


def _recognise_v(traits: Traits) -> str | None:
    return _recognise(traits) if traits.schedule.prediction_type == "v_prediction" else None


STABLE_DIFFUSION_2_V = Family(
    name="stable-diffusion-2-v",
    label="Stable Diffusion 2.x (768-v)",
    summary="it predicts velocity, and was trained at 768 x 768",
    recognise=_recognise_v,
    drawing=USUAL_DRAWING,
    side=96,
)
STABLE_DIFFUSION_2 = Family(
    name="stable-diffusion-2",
    label="Stable Diffusion 2.x (base)",
    summary="it predicts noise, and was trained at 512 x 512",
    recognise=_recognise,
    drawing=USUAL_DRAWING,
)
