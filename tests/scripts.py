"""Scripted engines that end as real ones do: at a length limit, or by a kill."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from rlaif_dpo.engines.base import Completion, Request
from rlaif_dpo.engines.scripted import ScriptedEngine


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it runs."""


class LimitedEngine(ScriptedEngine):
    """A reply of `max_new_tokens` words or more did not end by itself. Dies after `life` completions, over all its calls."""

    def __init__(self, reply: Callable[[Request], str | Exception], life: int = -1, **more: object) -> None:
        super().__init__(reply, **more)  # type: ignore[arg-type]
        self.life = life

    def generate(self, requests: Sequence[Request], skip: Collection[str] = ()) -> Iterator[Completion]:
        limits = {request.id: request.sampling.max_new_tokens for request in requests}
        for completion in super().generate(requests, skip):
            if self.life == 0:
                raise Killed
            self.life -= 1
            cut = completion.completion_tokens >= limits[completion.id]
            yield replace(completion, finish_reason="length") if cut else completion
