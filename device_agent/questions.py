"""Questions of the gateway about models that this device does not run: one at a time. A core without I/O."""

from collections.abc import Container
from dataclasses import replace

from contract.messages import EvaluationRequest
from device_agent.effects import Effect, Refuse, ReportLosses
from device_agent.facts import Facts

PATIENCE_S = 600.0
"""How long a model that is asked about is waited for."""


class Questions:
    """The open question, if there is one.

    Parameters
    ----------
    device_id
        This device.
    """

    def __init__(self, device_id: str) -> None:
        self._device_id = device_id
        self._open: EvaluationRequest | None = None
        self._deadline_s = 0.0

    @property
    def wanted(self) -> set[str]:
        """Digests of the models that must be held for the answer."""
        return set() if self._open is None else {model.digest for model in self._open.models}

    def ask(self, request: EvaluationRequest, facts: Facts, now_s: float) -> tuple[Facts, list[Effect]]:
        """Take a question; a newer one replaces the open one."""
        if request.device_id != self._device_id:
            return facts, [Refuse("evaluation-other-device")]
        if request.request == facts.asked:
            return facts, []
        if request.request < facts.asked:
            return facts, [Refuse("evaluation-older")]
        self._open, self._deadline_s = request, now_s + PATIENCE_S
        return replace(facts, asked=request.request), []

    def answer(self, held: Container[str], unfit: Container[str]) -> list[Effect]:
        """Answer once all models are there, or one of them cannot be had."""
        request = self._open
        if request is None:
            return []
        if any(m.digest in unfit and m.digest not in held for m in request.models):
            self._open = None
            return [ReportLosses(request, "model-refused")]
        if all(m.digest in held for m in request.models):
            self._open = None
            return [ReportLosses(request)]
        return []

    def expire(self, now_s: float) -> list[Effect]:
        """Give up a question whose models do not come."""
        if self._open is None or now_s < self._deadline_s:
            return []
        self._open = None
        return [Refuse("evaluation-deadline", "own")]
