"""SD-Turbo (Sauer et al. 2023): Stable Diffusion 2.1, distilled to one step."""

from pocket_diffusion.checkpoint.families.family import ONE_STEP, Family, Traits


def _recognise(traits: Traits) -> str | None:
    """Its shapes are those of Stable Diffusion 2.1: only its scheduler and its name tell it from that."""
    if traits.architecture != "stable-diffusion-2" or traits.schedule.prediction_type != "epsilon":
        return None
    if traits.scheduler == "EulerDiscreteScheduler" and traits.schedule.timestep_spacing == "trailing":
        return "by its scheduler, Euler with trailing timesteps"
    return "by its name" if traits.is_named("turbo") else None


TURBO = Family(
    name="turbo",
    label="SD-Turbo",
    summary="it draws in one step, without guidance",
    recognise=_recognise,
    drawing=ONE_STEP,
    distilled=True,
)
