"""`get_config` and `from_config` for objects that Keras saves by constructor arguments."""

import inspect

import keras


class Configurable:
    """A class whose constructor arguments are attributes of the same names.

    Arguments that Keras can serialize, such as losses, layers and registered functions,
    may be nested, also in dicts. If the constructor takes `**kwargs`, the arguments of the
    base class that gets them are included; those of a layer are in Keras's own config.
    """

    def get_config(self):
        """Returns the constructor arguments."""
        names, further = _arguments(type(self))
        config = getattr(super(), "get_config", dict)()
        if not further:
            config = {name: config[name] for name in config if name in names}
        for name in names:
            if name in config:
                continue
            if hasattr(self, name):
                config[name] = _serialized(getattr(self, name))
            elif type(self).get_config is Configurable.get_config:
                raise ValueError(
                    f"{type(self).__name__} is saved by its constructor arguments: "
                    f"expected an attribute `{name}` with the value of the argument. "
                    f"Received an object without it. Set self.{name} in the constructor, "
                    "or override get_config."
                )
        return config

    @classmethod
    def from_config(cls, config):
        """Creates an object from the result of `get_config`."""
        return cls(**{name: _deserialized(value) for name, value in config.items()})


def _arguments(cls):
    """Returns names of the constructor arguments, and whether Keras takes others."""
    names = []
    for part in cls.__mro__:
        if not issubclass(part, Configurable):
            return names, True
        if "__init__" not in vars(part):
            continue
        parameters = list(inspect.signature(part.__init__).parameters.values())[1:]
        kinds = [p.kind for p in parameters]
        names += [
            p.name
            for p in parameters
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in names
        ]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return names, False
    return names, True


def _serialized(value):
    if isinstance(value, dict):
        return {name: _serialized(part) for name, part in value.items()}
    if hasattr(value, "get_config") or callable(value):
        return keras.saving.serialize_keras_object(value)
    return value


def _deserialized(value):
    if not isinstance(value, dict):
        return value
    if "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return {name: _deserialized(part) for name, part in value.items()}
