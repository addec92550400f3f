"""The paper's task: RegGAN's losses on a generator that a frozen encoder conditions by FiLM."""

from typing import Any, Literal

from torch import Tensor

from past_core.training.attached import data_of
from past_vihc.data.batch import StainBatch
from past_vihc.models.generator import FiLMGenerator
from past_vihc.tasks.base import StainTaskError
from past_vihc.tasks.reggan import RegGANTask


class FiLMTask(RegGANTask):
    """A FiLM-conditioned generator (paper, Methods, "Virtual IHC staining").

    Everything but the conditioning is as in `RegGANTask`, so that the difference between the two is FiLM.

    Args:
        hidden: width of the conditioning MLP.
        embedding_dim: length of the embeddings; null takes it from the data.
        embeddings: `true`; or an ablation: `shuffled` gives each tile of a batch another one's, always in the
            same way, in validation too (`data.shuffle_embeddings` exchanges them over the whole part, and is
            then left as it is); `none` is the plain generator.
        options: see `RegGANTask`.

    Raises:
        StainTaskError: no encoder in the data, or another length.
    """

    def __init__(
        self,
        *,
        hidden: int = 512,
        embedding_dim: int | None = None,
        embeddings: Literal["true", "shuffled", "none"] = "true",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if embeddings not in ("true", "shuffled", "none"):
            raise StainTaskError(f"model.embeddings {embeddings!r}; expected true, shuffled or none")
        self.hidden, self.embedding_dim, self.embeddings = hidden, embedding_dim, embeddings
        self._before: Tensor | None = None

    def build_generator(self, data: Any) -> FiLMGenerator:
        """A generator for the data's embeddings.

        Raises:
            StainTaskError: see above.
        """
        if self.embeddings == "none":
            return super().build_generator(data)
        dim = int(data.embedding_dim)
        if not dim:
            raise StainTaskError(
                "the data have no embeddings to condition on: set data.encoder, or model.embeddings: none"
            )
        if self.embedding_dim not in (None, dim):
            raise StainTaskError(
                f"model.embedding_dim is {self.embedding_dim}, but data.encoder gives {dim}; leave the first "
                "out"
            )
        return FiLMGenerator(
            stains=data.stains,
            embedding_dim=dim,
            granularity=data.granularity,
            hidden=self.hidden,
            **self.trunk_settings,
        )

    def embedding(self, batch: StainBatch) -> Tensor | None:
        """The batch's embeddings, exchanged where the ablation says so.

        Raises:
            StainTaskError: a first batch of one tile, which has none to exchange with.
        """
        embedding = super().embedding(batch)
        by_data = getattr(data_of(self.trainer), "shuffle_embeddings", False)
        if embedding is None or self.embeddings != "shuffled" or by_data:
            return embedding
        if len(embedding) > 1:
            # Half a batch away: the next tile may be the neighbour on the slide, and look alike.
            self._before = embedding[:1].detach()
            return embedding.roll(len(embedding) // 2, dims=0)
        if self._before is None:
            raise StainTaskError(
                "model.embeddings: shuffled needs batches of at least two tiles; set data.shuffle_embeddings "
                "instead, which exchanges them over the whole part"
            )
        return self._before.to(embedding.device)  # a last batch of one tile takes one of the batch before

    def embeddings_used(self) -> str:
        """`true`, `shuffled` or `none`."""
        used = super().embeddings_used()
        return "shuffled" if used == "true" and self.embeddings == "shuffled" else used
