"""What fitting any retriever takes: its item side, loss, training, export, index and the record for the report."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.bundle.component import ComponentInfo, component_directory, write_component
from recsys.bundle.manifest import FEATURES_FOLDER
from recsys.columns import CREATED_MS
from recsys.data.interactions import Interactions
from recsys.errors import ConfigError
from recsys.evaluate.section import Section
from recsys.features.feature_set import FeatureSet, Field
from recsys.files import write_text
from recsys.index.vector_index import VectorIndex
from recsys.models.retriever import Retriever
from recsys.recipes.retriever_config import RetrieverConfig, SequenceConfig
from recsys.recipes.retriever_report import retriever_sections, training_metrics, training_record
from recsys.retrieval.user_tower import HISTORY_VECTORS, TOWER
from recsys.retrieval.vector_channel import INDEX
from recsys.train.batches import SequenceSampling, SequenceSource
from recsys.train.config import TrainingResult
from recsys.train.device import bf16_products, choose_device
from recsys.train.export import ExportReport, export_user_tower, item_vectors, user_vectors, write_history_vectors
from recsys.train.frequency import CountedFrequency, ItemFrequency, StreamingFrequency
from recsys.train.hard_negatives import HardNegatives
from recsys.train.negative_memory import NegativeMemory
from recsys.train.objective import NextItemObjective
from recsys.train.progress import Progress
from recsys.train.trainer import Trainer
from recsys.train.validation import RankingValidator
from recsys.train.view import TrainView
from recsys.train.warm_start import WEIGHTS, save_weights, start_from
from recsys.types import Floats

TRAINING: Final = "training.json"
FULL_SOFTMAX_UP_TO: Final = 50_000
"""Items up to which the whole catalogue is the negative of every target."""
_HARDLY_ANY_TWICE: Final = 0.01
"""Share of choices that are repeated ones, up to which a history is left out of the softmax."""

_NO_ATTRIBUTES: Final = ("id", "history")


ConfigT = TypeVar("ConfigT", bound=RetrieverConfig)


class RetrieverRecipe(ABC, Generic[ConfigT]):
    """Fits a retriever and leaves its channel: the ONNX user tower, the table of histories, the index, the weights."""

    name: ClassVar[str]
    title: ClassVar[str]
    """What the report calls it."""
    channel_type: ClassVar[str]
    needs: tuple[str, ...] = ()

    @abstractmethod
    def build_model(self, config: ConfigT, view: TrainView) -> Retriever:
        """The untrained model for a view's features.

        Raises:
            ConfigError: for a field that the features lack, or sizes that do not fit each other.
        """

    def options(self, model: Any) -> dict[str, Any]:
        """What the channel's opener is told beside inputs, dim, metric and history length."""
        return {}

    def fit(
        self,
        config: ConfigT,
        view: TrainView,
        inputs: Mapping[str, Path],
        out: Path,
        progress: Progress,
    ) -> dict[str, float]:
        """See `Recipe.fit`."""
        torch.set_num_threads(max(1, view.threads))
        torch.manual_seed(view.seed)
        model = self.build_model(config, view)
        started = self._start(model, config, view)
        model.to(choose_device(view.device))
        result, source = train(model, config, view, progress)
        if not view.ranks.leads:
            return {}
        weights = _field_weights(model, source)
        model.cpu()
        directory = component_directory(out, self.name)
        directory.mkdir(parents=True, exist_ok=True)
        exported = export_user_tower(model, directory / TOWER, view.seed)
        index, index_report = VectorIndex.build(  # holds the only reference: the index may let go of the vectors
            item_vectors(model), config.index.model_copy(update={"metric": config.similarity}), _queries(model, view)
        )
        index.save(directory / INDEX)
        if model.reads_history:
            write_history_vectors(model, directory / HISTORY_VECTORS)
        save_weights(model, directory / WEIGHTS)
        metrics = training_metrics(result, exported, index_report) | started
        write_text(directory / TRAINING, training_record(result, weights, index_report))
        write_component(out, self._channel(view, model, config, exported, metrics))
        return metrics

    def sections(self, component: Path, evaluation: Mapping[str, Any]) -> list[Section]:
        """Training curve, field weights and index; nothing for a component of another kind."""
        record = component / TRAINING
        return retriever_sections(self.title, json.loads(record.read_text("utf-8"))) if record.exists() else []

    def _start(self, model: Retriever, config: ConfigT, view: TrainView) -> dict[str, float]:
        """Puts in the weights of an earlier run, where there is one to start from; says what it took over."""
        if view.start is None:
            return {}
        weights = component_directory(view.start, self.name) / WEIGHTS
        earlier = FeatureSet.open(view.start / FEATURES_FOLDER)
        taken = start_from(model, view.features, weights, earlier, config.warm_start.new_rows)
        metrics = {"started_items": float(taken.items - taken.new_items), "new_items": float(taken.new_items)}
        if view.validation is not None and len(view.validation) and view.epochs is None:
            found = validator_of(view)(model.eval())
            metrics |= {f"start_validation_{name}": value for name, value in found.items()}
        return metrics

    def _channel(
        self, view: TrainView, model: Retriever, config: ConfigT, exported: ExportReport, metrics: dict[str, float]
    ) -> ComponentInfo:
        return ComponentInfo(
            name=self.name,
            kind="channel",
            type=self.channel_type,
            feature_set_hash=view.features.hash,
            catalogue_hash=view.catalogue.hash,
            metrics=metrics,
            options={
                "inputs": list(exported.inputs),
                "dim": exported.dim,
                "metric": config.similarity,
                "history_length": model.shape.history_length,
                **self.options(model),
            },
        )


def retriever_settings(recipe: str, config: SequenceConfig, view: TrainView) -> dict[str, Any]:
    """What the shape of any retriever takes from a configuration and a view's features.

    Raises:
        ConfigError: for a field that the features lack, or a history longer than the features keep.
    """
    history = view.features.history
    length = config.history_length or (history.length if history else 1)
    if history is not None and length > history.length:
        raise ConfigError(
            f"{recipe}.history_length = {length}: the features keep {history.length} items of a history; "
            "ask for fewer or raise the length of the history feature"
        )
    item_fields = _chosen(recipe, view.features.fields("item"), config.item_fields, "item_fields")
    settings = {
        "item_codes": int(view.encoder.item_index.max(initial=1)) + 1 if history is None else history.cardinality,
        "item_id": view.features.definition.id_of("item") is not None,
        "item_fields": item_fields,
        "user_fields": _chosen(recipe, view.features.fields("user"), config.user_fields, "user_fields"),
        "dim": config.dim,
        "history_length": length,
        "similarity": config.similarity,
        "temperature": config.temperature,
        "dropout": config.dropout,
        "id_dropout": config.id_dropout if item_fields else 0.0,
        "dates": tuple(f.name for f in view.features.definition.attributes("item") if f.column == CREATED_MS),
    }
    if not settings["item_id"] and not settings["item_fields"]:
        raise ConfigError(f"{recipe}: the item tower has neither item_id nor an attribute; add an item feature")
    return settings


def catalogue_tensors(view: TrainView, fields: tuple[Field, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """(N,) item-id codes and the encoded attributes of every catalogue row, as an item tower takes them."""
    items = {field.name: torch.from_numpy(np.array(view.items[field.name])) for field in fields}
    return torch.from_numpy(np.array(view.encoder.item_index)), items


def train(
    model: Retriever, config: RetrieverConfig, view: TrainView, progress: Progress
) -> tuple[TrainingResult, SequenceSource]:
    """Fits a model as its recipe does; what came of it, and the batches it saw.

    Raises:
        ConfigError: for a setting of a loss that is not used.
    """
    _check_loss(model.name, config, len(view.catalogue))
    full = _uses_full_softmax(config, len(view.catalogue))
    shown = shown_rows(model, view)
    source = SequenceSource(
        view.train,
        {field.name: view.users[field.name] for field in model.shape.user_fields},
        len(view.catalogue),
        SequenceSampling(
            batch_users=config.batch_users,
            length=model.shape.history_length,
            in_batch=0 if full else config.in_batch_negatives,
            uniform=0 if full else config.uniform_negatives,
            places=config.places,
            mined=config.hard_negatives,
            mined_ranks=config.hard_ranks,
            seed=view.seed,
        ),
        view.ranks,
        shown,
    )
    objective = _objective(model, config, source, view)
    if view.start is not None:
        config = config.warm_start.applied(config)
    validate = None
    if view.epochs is not None:
        config = config.model_copy(update={"max_epochs": view.epochs})
    elif view.validation is not None and len(view.validation):
        validator = validator_of(view)
        validate = lambda: validator(model)  # noqa: E731 (a closure over two names)
    trainer = Trainer(
        model, objective, source, config, progress, validate, device=model.device, ranks=view.ranks, also=objective
    )
    return trainer.fit(), source


def excludes_history(setting: bool | Literal["auto"], sequences: Interactions) -> bool:
    """What the setting of that name comes to for the sequences of a fit."""
    if setting == "auto":
        return bool((~sequences.first_occurrence()).mean() <= _HARDLY_ANY_TWICE)
    return setting


def _chosen(
    recipe: str, fields: tuple[Field, ...], wanted: Literal["all", "none"] | tuple[str, ...], setting: str
) -> tuple[Field, ...]:
    """The attribute fields of one side that the configuration asks for."""
    known = {field.name: field for field in fields if field.kind not in _NO_ATTRIBUTES}
    if wanted == "all":
        return tuple(known.values())
    if wanted == "none":
        return ()
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"{recipe}.{setting}: there is no field {name!r}; there are: {', '.join(known) or 'none'}"
            )
    return tuple(known[name] for name in wanted)


def validator_of(view: TrainView) -> RankingValidator:
    """Of all targets of a view that has a validation set."""
    assert view.validation is not None
    return RankingValidator(view.validation, view.encoder, view.user_frame, view.seed, view.ranks)


def _uses_full_softmax(config: RetrieverConfig, items: int) -> bool:
    return config.loss == "full_softmax" or (config.loss == "auto" and items <= FULL_SOFTMAX_UP_TO)


def _check_loss(recipe: str, config: RetrieverConfig, items: int) -> None:
    """Refuses settings of the other softmax, which would change nothing.

    Raises:
        ConfigError: names the setting.
    """
    full = _uses_full_softmax(config, items)
    set_in_vain = ("hard_negatives", "memory_batches") if full else ("exclude_history", "label_smoothing")
    here, there = ("full", "sampled") if full else ("sampled", "full")
    for setting in set_in_vain:
        if getattr(config, setting) not in (0, False, "auto"):
            raise ConfigError(
                f"{recipe}.{setting} = {getattr(config, setting)}: belongs to the {there} softmax, and {items:,} items "
                f"are fitted by the {here} one; leave it out, or set {recipe}.loss = {there}_softmax"
            )
    if config.memory_batches and config.correction == "none":
        raise ConfigError(f"{recipe}.memory_batches: remembered columns need a correction; {recipe}.correction is none")


def _objective(model: Retriever, config: RetrieverConfig, source: SequenceSource, view: TrainView) -> NextItemObjective:
    """What is minimised; the full softmax has every negative already."""
    memory, hard = None, None
    if source.sampling.samples and config.memory_batches:
        memory = NegativeMemory(config.memory_batches, config.memory_warm_up, device=model.device, ranks=view.ranks)
    if source.sampling.samples and config.hard_negatives:
        hard = HardNegatives(model.items, config.hard_refresh, config.hard_ranks[1], ranks=view.ranks)
    return NextItemObjective(
        model,
        _frequency(config, source, model.device, view),
        correction=config.correction,
        label_smoothing=config.label_smoothing,
        exclude_history=not source.sampling.samples and excludes_history(config.exclude_history, view.train),
        bf16=bf16_products(config.precision, model.device),
        memory=memory,
        hard=hard,
        shown=None if source.shown is None else torch.from_numpy(source.shown).to(model.device),
    )


def shown_rows(model: Retriever, view: TrainView) -> NDArray[np.int64] | None:
    """(C,) the rows that targets are told from, ascending; None = all.

    Where ids are hidden in training, an item that training does not show will be what items like it are. Else nothing
    is known of it, and it is better off last, like all that nobody chose, than in the middle.
    """
    if model.shape.id_dropout == 0.0:
        return None
    shown = np.unique(view.train.rows).astype(np.int64)
    return None if len(shown) == len(view.catalogue) else shown


def _frequency(config: RetrieverConfig, source: SequenceSource, device: str, view: TrainView) -> ItemFrequency:
    """What the sampled softmax knows of the items' shares; the full one asks nothing."""
    if not source.sampling.samples:
        return CountedFrequency(torch.empty(0, device=device))
    if config.frequency == "streaming":
        return StreamingFrequency.for_catalogue(
            len(view.catalogue), rate=config.frequency_rate, device=device, ranks=view.ranks
        )
    return CountedFrequency(torch.from_numpy(source.shares()).to(device))


def _field_weights(model: Retriever, source: SequenceSource) -> dict[str, dict[str, float]]:
    """Mean SENet weight of each field over the first batch of an epoch."""
    batch = next(source.epoch(0))
    with torch.no_grad():
        return model.field_weights(batch.to(model.device))


def _queries(model: Retriever, view: TrainView) -> Floats | None:
    """Vectors of some validation users, on which the index is tuned."""
    if view.validation is None or not len(view.validation):
        return None
    users = view.validation.users(0, min(len(view.validation), 1000), view.user_frame)
    vectors = user_vectors(model, view.encoder.encode_users(users, trim=True))
    return vectors.reshape(-1, vectors.shape[-1])
