"""How many micro-batches a step is cut into, and cutting finer when memory runs out.

Gradients of the parts add up to those of the whole batch, so the step stays what it was; only batch normalisation sees
smaller batches.
"""

from mlcli.engine.check import is_out_of_memory
from mlcli.engine.contract import Feed
from mlcli.engine.settings import Train
from mlcli.engine.state import Progress
from mlcli.errors import OutOfMemoryError


class MicroBatches:
    """The cut of one training's batches, which a resumed run keeps."""

    def __init__(self, train: Train, progress: Progress, feed: Feed) -> None:
        self._train, self._progress, self._feed = train, progress, feed
        if progress.halvings:
            feed.cut(self.parts)

    @property
    def parts(self) -> int:
        """Micro-batches of a step."""
        return min(self._train.samples_per_step, self._train.accumulate << self._progress.halvings)

    @property
    def size(self) -> int:
        """Samples of the largest micro-batch."""
        return -(-self._train.samples_per_step // self.parts)

    def halve(self, error: Exception) -> str:
        """Cut twice as fine from the next batches on; what was done, in words.

        Raises the error itself if memory is not what it is about, if it was not asked for, or at the end of the way.
        """
        asked = self._train.auto_microbatch
        if not (isinstance(error, OutOfMemoryError) or is_out_of_memory(error)) or not asked or self.size == 1:
            raise error
        error.__traceback__ = None  # whose frames hold the activations that did not fit
        self._progress.halvings += 1
        self._feed.cut(self.parts)
        return f"memory ran out: micro-batches of {self.size} from here on, {self.parts} to a step"
