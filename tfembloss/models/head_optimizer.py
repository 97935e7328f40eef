"""Separate optimizers for the encoder and the head of a model."""

import keras

from tfembloss.layers.shards import keep_shards
from tfembloss.optimizers import MultiOptimizer


def with_head(optimizer, head_optimizer):
    """Returns a `HeadOptimizer`, wrapped in the loss scaling of either optimizer."""
    optimizers = [keras.optimizers.get(one) for one in (optimizer, head_optimizer)]
    scaled = keras.optimizers.LossScaleOptimizer
    scales = [one for one in optimizers if isinstance(one, scaled)]
    plain = [getattr(one, "inner_optimizer", one) for one in optimizers]
    both = HeadOptimizer(*plain)
    if not scales:
        return both
    config = scales[0].get_config()
    names = ("initial_scale", "dynamic_growth_steps")
    return scaled(both, **{name: config[name] for name in names})


def with_shards(optimizer, head_optimizer=None):
    """Returns a `HeadOptimizer` for a head with shards; by default two of the same kind."""
    optimizer = keras.optimizers.get(optimizer)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, HeadOptimizer) and head_optimizer is None:
        return optimizer  # of a saved model
    if head_optimizer is None:
        head_optimizer = inner.from_config(inner.get_config())
    return with_head(optimizer, head_optimizer)


@keras.saving.register_keras_serializable("tfembloss")
class HeadOptimizer(MultiOptimizer):
    """Two optimizers: one for the encoder's variables, one for the head's.

    `EmbeddingClassifier.compile(optimizer, head_optimizer=...)` creates it, a
    `tfembloss.optimizers.MultiOptimizer` whose group is the model's head.

    Args:
        optimizer: optimizer of the encoder's variables, as `compile` takes it.
        head_optimizer: optimizer of the head's variables.
        loss_scale_factor, ratios, name: see `MultiOptimizer`.

    Raises:
        ValueError: if one of them is a `LossScaleOptimizer`, which has to wrap both.

    Example:

    >>> optimizer = HeadOptimizer(keras.optimizers.Adam(1e-3), keras.optimizers.SGD(0.1))
    >>> round(float(optimizer.learning_rate), 4)
    0.001
    """

    def __init__(
        self,
        optimizer,
        head_optimizer,
        name="head_optimizer",
        *,
        loss_scale_factor=None,
        ratios=None,
    ):
        super().__init__(
            optimizer,
            [(None, head_optimizer)],
            loss_scale_factor=loss_scale_factor,
            ratios=ratios,
            name=name,
        )

    def set_head(self, head):
        """Sets the layer that is the head."""
        self._patterns = lambda: [head]
        if getattr(head, "shard", False):
            keep_shards(self.head_optimizer)

    @property
    def optimizer(self):
        """The optimizer of the encoder's variables."""
        return self.parts[0]

    @property
    def head_optimizer(self):
        """The optimizer of the head's variables."""
        return self.parts[1]

    def _saved(self, pattern):
        return None  # the model sets it again

    def get_config(self):
        """Returns the constructor arguments."""
        config = super().get_config()
        ((_, head_optimizer),) = config.pop("groups")
        del config["global_clipnorm"]
        return {**config, "head_optimizer": head_optimizer}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Creates an optimizer from the result of `get_config`."""
        made = {
            part: keras.saving.deserialize_keras_object(config[part], custom_objects)
            for part in ("optimizer", "head_optimizer")
        }
        return cls(**{**config, **made})
