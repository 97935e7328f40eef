"""One optimizer made of several, each with some of a model's variables."""

import re

import keras

from tfembloss.checks import number

__all__ = ["MultiOptimizer", "ScaledSchedule", "layerwise_decay"]


@keras.saving.register_keras_serializable("tfembloss")
class MultiOptimizer(keras.optimizers.Optimizer):
    """Several optimizers in one, each for a group of the variables.

    A variable goes to the first group whose pattern matches it, and to `optimizer` if there
    is none. Each optimizer keeps its own learning rate or schedule, weight decay, clipping,
    moving average and accumulation of gradients.

    `learning_rate` is that of `optimizer`. Setting it, as callbacks do, multiplies the
    rates of all groups by the same factor, except those that have a schedule.

    Args:
        optimizer: optimizer of all other variables, as `compile` takes it.
        groups: list of (pattern, optimizer). A pattern is a layer, or a regular expression
            that is searched for in `variable.path`, such as `"bias|norm"`. How a path
            begins may depend on the model around a layer, so a `^` is seldom right.
        global_clipnorm: the largest norm of all gradients together, > 0; larger ones are
            scaled down to it. That of a group's optimizer is for its own variables.
        loss_scale_factor: see `keras.optimizers.Optimizer`; by default that of one of the
            optimizers, if any has one.
        ratios: list of each group's learning rate divided by that of `optimizer`, None for
            one that stays as it is; by default those of the given optimizers.
        name: as in `keras.optimizers.Optimizer`.

    Raises:
        ValueError: one of the optimizers is a `LossScaleOptimizer`, which has to be around
            them, or is there twice; when built, a group gets no variable; when saved, a
            pattern is a layer and the optimizer is not built.

    Example:

    >>> encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3, name="top")])
    >>> optimizer = MultiOptimizer(
    ...     keras.optimizers.AdamW(2e-5, weight_decay=0.01),
    ...     [("bias|norm", keras.optimizers.Adam(2e-5))],  # no weight decay
    ... )
    >>> encoder.compile(optimizer, loss="mse")
    >>> optimizer.build(encoder.trainable_variables)
    >>> [[v.name for v in part._trainable_variables] for part in optimizer.parts]
    [['kernel'], ['bias']]

    Relations:
        `keras.optimizers.MultiOptimizer` of Keras 3.15 takes an `OptimizerMap`, whose
        patterns match whole paths. It takes no layers, is silent about a pattern that
        matches nothing, has no `learning_rate`, and fails if a group has no gradient.
    """

    def __init__(
        self,
        optimizer,
        groups=(),
        *,
        global_clipnorm=None,
        loss_scale_factor=None,
        ratios=None,
        name="multi_optimizer",
    ):
        groups = list(groups)
        parts = [keras.optimizers.get(one) for one in (optimizer, *(x for _, x in groups))]
        if any(isinstance(one, keras.optimizers.LossScaleOptimizer) for one in parts):
            raise ValueError(
                "A loss is scaled once, for all optimizers: expected LossScaleOptimizer("
                f"{type(self).__name__}(...)). Received a LossScaleOptimizer as one of its "
                "optimizers."
            )
        if len(set(map(id, parts))) < len(parts):
            raise ValueError(
                "Expected an optimizer for each group. Received one of them twice, as "
                f"{type(self).__name__}({optimizer!r}, {groups!r:.200})."
            )
        patterns = [pattern for pattern, _ in groups]
        for pattern in patterns:
            _check_pattern(pattern)
        factors = [loss_scale_factor, *(one.loss_scale_factor for one in parts)]
        super().__init__(
            learning_rate=0.0,
            global_clipnorm=global_clipnorm,
            loss_scale_factor=next(filter(None, factors), None),
            name=name,
        )
        for one in parts:
            one.loss_scale_factor = None  # for this one divides by it
        self.parts = parts
        self.ratios = [_ratio(x, parts[0]) for x in parts[1:]] if ratios is None else ratios
        # In a function, because Keras saves layers in attributes with the optimizer.
        self._patterns = lambda: patterns

    def build(self, variables):
        """Builds the variables of all optimizers."""
        part_of = [0] * len(variables)
        patterns = self._patterns()
        for part, pattern in reversed([*enumerate(patterns, 1)]):  # so the first one wins
            for i in _places(pattern, variables):
                part_of[i] = part
        for part, pattern in enumerate(patterns, 1):
            if part not in part_of:
                _refuse(pattern, variables)
        self._part_of = part_of
        for i, one in enumerate(self.parts):
            one.build([v for v, part in zip(variables, part_of, strict=True) if part == i])
        super().build(variables)

    def _split(self, variables, *others):
        """Yields each optimizer that has some of the variables, and rows of these."""
        rows = [[] for _ in self.parts]
        for variable, *other in zip(variables, *others, strict=True):
            place = self._part_of[self._get_variable_index(variable)]
            rows[place].append((*other, variable))
        yield from ((one, row) for one, row in zip(self.parts, rows, strict=True) if row)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        for one, gradients_and_variables in self._split(trainable_variables, grads):
            one.apply_gradients(gradients_and_variables)

    def finalize_variable_values(self, var_list):
        """Finalizes the variables of all optimizers at the end of training."""
        for one, rows in self._split(var_list):
            if _number(one.iterations):  # the averages of one without gradients are zeros
                one.finalize_variable_values([variable for (variable,) in rows])

    @property
    def variables(self):
        """The variables of all optimizers."""
        return sum((one.variables for one in self.parts), self._variables[:])

    @property
    def learning_rate(self):
        """The learning rate of the variables that are in no group."""
        return self.parts[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        first, *others = self.parts
        first.learning_rate = value
        for one, ratio in zip(others, self.ratios, strict=True):
            if ratio is not None:
                one.learning_rate = _scaled(value, ratio)

    # Saving. Keras saves the state of `parts` by itself.

    def save_own_variables(self, store):
        """Saves the state that no other optimizer has."""
        for i, variable in enumerate(self._variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store):
        """Loads what `save_own_variables` saved, or earlier versions of the package."""
        if len(store.keys()) != len(self._variables):
            super().load_own_variables(store)  # which was that of all optimizers
            return
        for i, variable in enumerate(self._variables):
            variable.assign(store[str(i)])

    def get_config(self):
        """Returns the constructor arguments; layers as the places of their variables."""
        first, *others = map(keras.saving.serialize_keras_object, self.parts)
        patterns = map(self._saved, self._patterns())
        return {
            "optimizer": first,
            "groups": [list(group) for group in zip(patterns, others, strict=True)],
            "global_clipnorm": self.global_clipnorm,
            "loss_scale_factor": self.loss_scale_factor,
            "ratios": list(self.ratios),
            "name": self.name,
        }

    def _saved(self, pattern):
        if not isinstance(pattern, keras.layers.Layer):
            return pattern
        if not self.built:
            raise ValueError(
                "Expected an optimizer that is built, to save which variables are those of "
                f"layer {pattern.name!r}. Received: one that is not. Call "
                "optimizer.build(model.trainable_variables) first, or give a regular "
                "expression in place of the layer."
            )
        return _places(pattern, self._trainable_variables)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Creates an optimizer from the result of `get_config`."""

        def made(one):
            return keras.saving.deserialize_keras_object(one, custom_objects)

        groups = [(pattern, made(one)) for pattern, one in config["groups"]]
        return cls(**{**config, "optimizer": made(config["optimizer"]), "groups": groups})


def _check_pattern(pattern):
    """Checks a pattern: a regular expression, a layer, or the places of one when saved."""
    if pattern is None or isinstance(pattern, keras.layers.Layer | list | tuple):
        return  # None is set later
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            "Expected groups of (pattern, optimizer), each pattern a layer or a regular "
            f"expression of paths. Received: the pattern {pattern!r} ({error})."
        ) from error


def _places(pattern, variables):
    """Returns the places, among these variables, of those that a pattern matches."""
    if isinstance(pattern, keras.layers.Layer):
        of_layer = {id(v) for v in pattern.variables}
        return [i for i, v in enumerate(variables) if id(v) in of_layer]
    if isinstance(pattern, str):
        return [i for i, v in enumerate(variables) if re.search(pattern, v.path)]
    return [i for i in pattern or () if i < len(variables)]


def _refuse(pattern, variables):
    what = f"layer {pattern.name!r}" if hasattr(pattern, "name") else repr(pattern)
    paths = [v.path for v in variables]
    shown = ", ".join(map(repr, paths[:8])) + (", ..." if len(paths) > 8 else "")
    raise ValueError(
        "Expected each pattern to match a trainable variable that no earlier one matches. "
        f"Received: {what}, which matches none of {shown} ({len(paths)} in all). Patterns "
        "are searched for in these paths; layers must be of this model, and not frozen."
    )


# Learning rates.


def _ratio(optimizer, first):
    """Returns the ratio of two learning rates; None if there is none that stays."""
    rates = [one.learning_rate for one in (optimizer, first)]
    if not all(isinstance(rate, keras.Variable) for rate in rates):
        return None  # a schedule's changes
    rate, of = map(_number, rates)
    return rate / of if of else None


def _scaled(rate, factor):
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return ScaledSchedule(rate, factor)
    return _number(rate) * factor


def _number(value):
    return keras.ops.convert_to_numpy(value).item()  # also of a variable on replicas


@keras.saving.register_keras_serializable("tfembloss")
class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of learning rates, multiplied by a factor.

    Args:
        schedule: a `keras.optimizers.schedules.LearningRateSchedule`.
        factor: the factor.

    Example:

    >>> cosine = keras.optimizers.schedules.CosineDecay(1e-3, decay_steps=10)
    >>> round(float(ScaledSchedule(cosine, 0.5)(0)), 6)
    0.0005
    """

    def __init__(self, schedule, factor):
        self.schedule = schedule
        self.factor = factor

    def __call__(self, step):
        """Returns the learning rate at a step."""
        return self.schedule(step) * self.factor

    def get_config(self):
        """Returns the constructor arguments."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "factor": self.factor}

    @classmethod
    def from_config(cls, config):
        """Creates a schedule from the result of `get_config`."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["factor"])


def layerwise_decay(model, optimizer, decay=0.9, blocks=r"(block|layer)_\d+"):
    r"""Returns an optimizer whose learning rate is the smaller, the lower a layer is.

    The highest block, what follows it and what is not in the encoder, such as a head, have
    the rate of `optimizer`, the block below `decay` times that, and so on:

    $$\eta_i = \eta\, d^{\,n - i},\quad i = 1 \dots n\ \text{for the blocks},\quad
      i = 0\ \text{for what comes before them}$$

    Args:
        model: a model with an encoder, as from `EmbeddingModel.from_pretrained`, or an
            encoder; its layers must be built.
        optimizer: a Keras optimizer, also with a schedule; this one is not changed. Its
            `global_clipnorm` is for all variables together.
        decay: d, above 0, at most 1.
        blocks: regular expression that is found in the names of the encoder's blocks.

    Returns:
        A `MultiOptimizer`.

    Raises:
        ValueError: an argument is invalid, or the encoder does not have such blocks.

    Example:

    >>> layers = [keras.layers.Dense(3, name=name) for name in ("first", "block_0")]
    >>> encoder = keras.Sequential([keras.Input([4]), *layers])
    >>> optimizer = layerwise_decay(encoder, keras.optimizers.AdamW(1e-3), decay=0.5)
    >>> [round(float(part.learning_rate), 6) for part in optimizer.parts]
    [0.001, 0.0005]

    Reference:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification",
        2018, https://arxiv.org/abs/1801.06146
    """
    decay = number("decay", decay, "a number above 0, at most 1", lambda x: 0 < x <= 1)
    optimizer = keras.optimizers.get(optimizer)
    layers = getattr(getattr(model, "encoder", model), "layers", [])
    are_blocks = [re.search(blocks, layer.name) is not None for layer in layers]
    if not any(are_blocks):
        raise ValueError(
            f"Expected an encoder with blocks, layers whose names match {blocks!r}. "
            f"Received: one with layers {[layer.name for layer in layers]!r:.300}. Give "
            "`blocks`, a regular expression of their names."
        )
    if optimizer.global_clipnorm and optimizer.gradient_accumulation_steps:
        raise ValueError(
            "Expected an optimizer with global_clipnorm or gradient_accumulation_steps, as "
            "the norm of all accumulated gradients is not known to each part. Received: "
            "both. Use clipnorm instead, the norm of each gradient."
        )
    groups, above = [], sum(are_blocks)
    for layer, is_block in zip(layers, are_blocks, strict=True):
        above -= is_block
        if above and layer.trainable_variables:
            groups.append((layer, _copy(optimizer, decay**above)))
    clipnorm = optimizer.global_clipnorm
    return MultiOptimizer(_copy(optimizer, 1.0), groups, global_clipnorm=clipnorm)


def _copy(optimizer, factor):
    """Returns an optimizer like this one, with its learning rate times a factor."""
    rate = optimizer._learning_rate
    is_schedule = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
    if callable(rate) and not is_schedule:
        raise ValueError(
            "Expected an optimizer whose learning rate is a number or a "
            f"LearningRateSchedule. Received: learning_rate={rate!r}. Make it a subclass "
            "of keras.optimizers.schedules.LearningRateSchedule."
        )
    config = optimizer.get_config()
    config |= {"learning_rate": _scaled(rate, factor), "global_clipnorm": None}
    copy = type(optimizer).from_config(config)
    # Which are not in the config.
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(optimizer, name):
            setattr(copy, name, getattr(optimizer, name))
    return copy
