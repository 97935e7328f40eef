"""In-batch losses in tiles of rows, without the whole matrix `[B, N]`.

The values of a tile `[T, N]` are not stored; they are recomputed in the backward pass, tile
by tile. So memory is that of the embeddings and of one tile, whatever B. A tile applies the
formula to fewer rows, so that its size does not change the result.

The loop and its matrix products are TensorFlow's own, and the rest of a tile is an XLA
kernel: matrix products in an XLA loop take ten times as long on CPU.
"""

import tensorflow as tf

# Entries of a tile, 16 MB in float32, and the rows that a fast matrix product needs.
ENTRIES, LEAST_ROWS = 2**22, 512


def by_tiles(function, x, keys, constants=(), tile_size=None, log_sums=False):
    """Applies a function of rows and all keys, in tiles of rows if there are many.

    Args:
        function: `(x, keys, *constants) -> values` of some rows, `[B]` or `[B, k]`; with
            `log_sums` it returns `(values, log_sums)`, for each key the log of a sum over
            these rows `[N]`. Nothing else that it uses gets a gradient.
        x: tensor `[B, ...]`: the rows.
        keys: tensor `[N, ...]`.
        constants: tensors `[B, ...]` of the rows, without gradient, or None.
        tile_size: largest number of rows of a tile, >= 1; None for tiles of at most
            `ENTRIES` entries, but at least `LEAST_ROWS` rows. If B and N are known when
            this is traced, and B is not larger, `function` is called once and nothing is
            recomputed. If tiles do not divide B, the last one is padded with zeros, and so
            are the constants.
        log_sums: whether `function` returns them.

    Returns:
        What `function` returns for all rows, with gradients in x and keys.
    """
    sizes = [x.shape[0], keys.shape[0]]
    known = None not in sizes
    num_rows, num_keys = sizes if known else (tf.shape(x)[0], tf.shape(keys)[0])
    if tile_size is None:
        largest = max if known else tf.maximum
        tile_size = largest(LEAST_ROWS, ENTRIES // largest(num_keys, 1))
    if known and not tf.is_tensor(tile_size) and num_rows <= tile_size:
        return function(x, keys, *constants)
    together = function if log_sums else lambda *rows: (function(*rows), None)
    values, sums = _tiled(together, x, keys, constants, num_rows, tile_size)
    return (values, sums) if log_sums else values


def _tiled(function, x, keys, constants, num_rows, tile_size):
    num_tiles = tf.maximum(-(-num_rows // tile_size), 1)
    tile_size = -(-num_rows // num_tiles)  # so that the last is as full as the others

    def cut(x):
        padding = [[0, num_tiles * tile_size - num_rows]] + [[0, 0]] * (x.shape.rank - 1)
        shape = tf.concat([[num_tiles, tile_size], tf.shape(x)[1:]], axis=0)
        return tf.reshape(tf.pad(x, padding), shape)

    def join(tiles):
        shape = tf.concat([[num_tiles * tile_size], tf.shape(tiles)[2:]], axis=0)
        return tf.reshape(tiles, shape)[:num_rows]

    constants = [None if c is None else cut(tf.stop_gradient(c)) for c in constants]

    def of_tile(i, rows, keys):
        return function(rows, keys, *(None if c is None else c[i] for c in constants))

    @tf.custom_gradient
    def evaluate(x, keys):
        x, keys = cut(tf.stop_gradient(x)), tf.stop_gradient(keys)

        def forward(i, values, sums):
            values_here, sums_here = of_tile(i, x[i], keys)
            if sums_here is not None:
                sums = tf.reduce_logsumexp(tf.stack([sums, sums_here]), axis=0)
            return i + 1, values.write(i, values_here), sums

        nothing = tf.fill(tf.shape(keys)[:1], tf.constant(float("-inf"), keys.dtype))
        tiles = tf.TensorArray(x.dtype, num_tiles)
        values, sums = _loop(num_tiles, forward, tiles, nothing)

        def gradient(upstream, upstream_of_sums):
            upstream = cut(upstream)

            def backward(i, of_x, of_keys):
                rows = x[i]
                with tf.GradientTape() as tape:
                    tape.watch((rows, keys))
                    values_here, sums_here = of_tile(i, rows, keys)
                outputs = [(values_here, upstream[i])]
                if sums_here is not None:
                    share = tf.exp(tf.stop_gradient(sums_here) - sums)
                    outputs.append((sums_here, upstream_of_sums * share))
                outputs, weights = zip(*outputs, strict=True)
                slopes = tape.gradient(outputs, (rows, keys), weights, "zero")
                return i + 1, of_x.write(i, slopes[0]), of_keys + slopes[1]

            tiles = tf.TensorArray(x.dtype, num_tiles)
            of_x, of_keys = _loop(num_tiles, backward, tiles, tf.zeros_like(keys))
            return join(of_x.stack()), of_keys

        return (join(values.stack()), sums), gradient

    return evaluate(x, keys)


def _loop(steps, body, *state):
    # One step at a time: parallel steps would hold a tile each.
    steps_left = lambda i, *_: i < steps  # noqa: E731
    return tf.while_loop(steps_left, body, (0, *state), parallel_iterations=1)[1:]
