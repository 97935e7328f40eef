"""An optimizer for a model's encoder and another one for its head."""

import keras


def with_head(optimizer, head_optimizer):
    """A `HeadOptimizer`, within the loss scale that one of the optimizers has."""
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

    What `EmbeddingClassifier.compile(optimizer, head_optimizer=...)` makes. Its learning
    rate is that of the encoder's optimizer; its iterations are the steps of both.

    Args:
        optimizer: of the encoder's variables: what `compile` takes.
        head_optimizer: of the head's variables.
        name: as in `keras.optimizers.Optimizer`.

    Raises:
        ValueError: one of them is a `LossScaleOptimizer`, which belongs around both.

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
        """Both optimizers, each with its variables and what goes with them."""
        of_head = {id(variable) for variable in self.head.variables}
        for optimizer, wanted in ((self.optimizer, False), (self.head_optimizer, True)):
            rows = [
                row
                for row in zip(variables, *others, strict=True)
                if (id(row[0]) in of_head) == wanted
            ]
            yield optimizer, *map(list, zip(*rows, strict=True))

    def build(self, variables):
        """Makes the variables of both."""
        for optimizer, *part in self._parts(variables):
            optimizer.build(*part or [[]])
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        """Applies each gradient by the optimizer of its variable."""
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        if not self.built:
            self.build(trainable_variables)
        for optimizer, *part in self._parts(trainable_variables, grads):
            if part:
                variables, gradients = part
                # Each divides by its own factor what was scaled by this one's.
                own, given = optimizer.loss_scale_factor, self.loss_scale_factor
                factor = (own or 1.0) / (given or 1.0)
                if factor != 1:
                    gradients = [None if g is None else g * factor for g in gradients]
                optimizer.apply(gradients, variables)
        self._iterations.assign_add(1)

    def finalize_variable_values(self, var_list):
        """At the end of training, what both do."""
        for optimizer, *part in self._parts(var_list):
            optimizer.finalize_variable_values(*part or [[]])

    @property
    def variables(self):
        """Those of both."""
        both = self.optimizer.variables + self.head_optimizer.variables
        return self._variables + both

    @property
    def learning_rate(self):
        """That of the encoder's optimizer."""
        return self.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.optimizer.learning_rate = value

    def get_config(self):
        """The arguments that make this optimizer again."""
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "head_optimizer": keras.saving.serialize_keras_object(self.head_optimizer),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The optimizer that `get_config` described."""
        made = {
            part: keras.saving.deserialize_keras_object(config[part], custom_objects)
            for part in ("optimizer", "head_optimizer")
        }
        return cls(**{**config, **made})
