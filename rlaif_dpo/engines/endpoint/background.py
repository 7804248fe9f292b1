"""An event loop in a thread of its own, behind plain iterators: it works in notebooks, where the main thread has a loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar, cast

T = TypeVar("T")
_END = object()


class Background:
    """The thread starts at the first use and dies with the process."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def iterate(self, work: Callable[["SimpleQueue[T]"], Coroutine[Any, Any, None]]) -> Iterator[T]:
        """What `work` puts into its queue, as it comes; its exception at the end.

        Closing the iterator, or Ctrl-C while it waits, cancels `work` and waits until that is done.
        """
        results: SimpleQueue[T] = SimpleQueue()
        ends = cast("SimpleQueue[object]", results)
        loop, tasks = self._started(), list[asyncio.Task[None]]()

        def start() -> None:
            tasks.append(loop.create_task(work(results)))
            tasks[0].add_done_callback(lambda task: ends.put(_END))

        loop.call_soon_threadsafe(start)
        ended = False
        try:
            while (result := results.get()) is not _END:
                yield result
            ended = True
        finally:
            if not ended:
                loop.call_soon_threadsafe(lambda: tasks[0].cancel())
                while results.get() is not _END:
                    pass
        if (error := tasks[0].exception()) is not None:
            raise error

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work`, waited for as in `iterate`."""

        async def one(results: "SimpleQueue[T]") -> None:
            results.put(await work())

        (result,) = self.iterate(one)
        return result

    def close(self) -> None:
        """End the thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = None

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
                self._thread.start()
            return self._loop
