"""How many examples a property test of the flow meters makes; also a pytest plugin with the profile for emulation.

    pytest -p tests.property.examples --hypothesis-profile=emulation ...

Under an emulated processor everything takes eight times as long, and what is looked for there are differences between
processors, which few examples show as well as many.
"""

from hypothesis import settings

EMULATION = "emulation"
settings.register_profile(EMULATION, max_examples=5, deadline=None)


def examples(usual: int) -> int:
    """Return the number of examples, or at most that of the profile for emulation if it is in force."""
    profile = settings.get_profile(EMULATION)
    return min(usual, profile.max_examples) if settings.default == profile else usual
