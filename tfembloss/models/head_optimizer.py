"""Separate optimizers for the encoder and the head of a model."""

import keras


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


@keras.saving.register_keras_serializable("tfembloss")
class HeadOptimizer(keras.optimizers.Optimizer):
    """Two optimizers: one for the encoder's variables, one for the head's.

    `EmbeddingClassifier.compile(optimizer, head_optimizer=...)` creates it. Its learning
    rate is that of the encoder's optimizer; its iterations are the steps of both.

    Args:
        optimizer: optimizer of the encoder's variables, as `compile` takes it.
        head_optimizer: optimizer of the head's variables.
        name: as in `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if one of them is a `LossScaleOptimizer`, which has to wrap both.

    Example:

    >>> optimizer = HeadOptimizer(keras.optimizers.Adam(1e-3), keras.optimizers.SGD(0.1))
    >>> round(float(optimizer.learning_rate), 4)
    0.001
    """

    def __init__(self, optimizer, head_optimizer, name="head_optimizer"):
        super().__init__(learning_rate=0.0, name=name)
        self.optimizer = keras.optimizers.get(optimizer)
        self.head_optimizer = keras.optimizers.get(head_optimizer)
        self.head = None  # the layer; the model sets it
        both = (self.optimizer, self.head_optimizer)
        if any(isinstance(one, keras.optimizers.LossScaleOptimizer) for one in both):
            raise ValueError(
                "A loss is scaled once, for both optimizers: expected "
                "LossScaleOptimizer(HeadOptimizer(optimizer, head_optimizer)). Received a "
                "LossScaleOptimizer as one of the two."
            )
        factors = [one.loss_scale_factor for one in both]
        self.loss_scale_factor = next(filter(None, factors), None)

    def _parts(self, variables, *others):
        """Yields both optimizers, each with its variables and the matching others."""
        of_head = {id(variable) for variable in self.head.variables}
        for optimizer, wanted in ((self.optimizer, False), (self.head_optimizer, True)):
            rows = [
                row
                for row in zip(variables, *others, strict=True)
                if (id(row[0]) in of_head) == wanted
            ]
            yield optimizer, *map(list, zip(*rows, strict=True))

    def build(self, variables):
        """Builds the variables of both optimizers."""
        for optimizer, *part in self._parts(variables):
            optimizer.build(*part or [[]])
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        """Applies each gradient with the optimizer of its variable."""
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        if not self.built:
            self.build(trainable_variables)
        for optimizer, *part in self._parts(trainable_variables, grads):
            if part:
                variables, gradients = part
                # Each optimizer divides by its own factor, but this one's has been applied.
                own, given = optimizer.loss_scale_factor, self.loss_scale_factor
                factor = (own or 1.0) / (given or 1.0)
                if factor != 1:
                    gradients = [None if g is None else g * factor for g in gradients]
                optimizer.apply(gradients, variables)
        self._iterations.assign_add(1)

    def finalize_variable_values(self, var_list):
        """Finalizes the variables of both optimizers at the end of training."""
        for optimizer, *part in self._parts(var_list):
            optimizer.finalize_variable_values(*part or [[]])

    @property
    def variables(self):
        """The variables of both optimizers."""
        both = self.optimizer.variables + self.head_optimizer.variables
        return self._variables + both

    @property
    def learning_rate(self):
        """The learning rate of the encoder's optimizer."""
        return self.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.optimizer.learning_rate = value

    def get_config(self):
        """Returns the constructor arguments."""
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "head_optimizer": keras.saving.serialize_keras_object(self.head_optimizer),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Creates an optimizer from the result of `get_config`."""
        made = {
            part: keras.saving.deserialize_keras_object(config[part], custom_objects)
            for part in ("optimizer", "head_optimizer")
        }
        return cls(**{**config, **made})
