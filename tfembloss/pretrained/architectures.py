"""The index of architectures: the family of each model_type of a config.json.

A family is a module with

- `KINDS`: its values of model_type;
- `HEADS`: how the names of weights begin that do not change its token embeddings;
- `PREFIXES`: what may stand before the names of all weights in a checkpoint;
- `longest(config)`: the largest number of tokens, or None if there is no limit;
- `token_embeddings(config, tokens, mask, types, dropout, dtype)`: symbolic `[B, T, D]`;
  types of tokens may be None, and are not used by an architecture without any;
- `weights(encoder, config)`: dict of a checkpoint's name to a variable, and if the
  checkpoint has it transposed. It is read and written by it.
"""

from tfembloss.pretrained import bert, deberta, decoders

FAMILIES = {kind: x for x in (bert, deberta, decoders) for kind in x.KINDS}


def family(config):
    """Returns the family of a config.json. Raises ValueError if it is not supported."""
    kind = config["model_type"]
    if kind not in FAMILIES:
        raise ValueError(
            f"Expected a checkpoint of {', '.join(FAMILIES)}. Received: a {kind}, which is "
            "not supported."
        )
    return FAMILIES[kind]
