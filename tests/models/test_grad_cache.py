"""Training by mini-batches is training on the whole batch: same losses, same weights."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, ONE_OF_EACH_LOSS
from goldens import kernels, plain_kernels  # noqa: F401
from replica_runs import Run

import tfembloss
from tfembloss import losses
from tfembloss.losses.classification.base import ClassLoss
from tfembloss.models import grad_cache

DIM = 6


def encoder(dropout=0.0, **options):
    return keras.Sequential(
        [
            keras.layers.Dense(8, activation="tanh", **options),
            keras.layers.Dropout(dropout, seed=3),
            keras.layers.Dense(DIM),
        ]
    )


def seeded(make, *arguments):
    keras.utils.set_random_seed(1)
    return make(*arguments)


def points(num_rows, *shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=[num_rows, *shape]).astype("float32")


def columns(num_rows, num_columns=2):
    return tuple(points(num_rows, 3, seed=i) for i in range(num_columns))


def ids(num_rows):
    return np.arange(num_rows) // 2


class NoisyHead(tfembloss.layers.CosineHead):
    """A head that draws in each call: the encoder's replay must not set it back."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.seed_generator = keras.random.SeedGenerator(7)

    def call(self, embeddings, classes=None):
        x = tf.cast(embeddings, "float32")
        noise = keras.random.normal(tf.shape(x), dtype=x.dtype, seed=self.seed_generator)
        return super().call(x + 0.1 * noise, classes)


# Each setup: the model's class, its arguments with dropout, the loss, x and y.

ranking = losses.MultipleNegativesRankingLoss
SETUPS = {
    "columns": lambda n: (
        tfembloss.EmbeddingModel, [encoder(0.5)], ranking(scale=2.0), columns(n), None),
    "labels": lambda n: (
        tfembloss.EmbeddingModel, [encoder(0.5)], losses.TripletMarginLoss(margin=0.5),
        points(n, 3), ids(n)),
    "head": lambda n: (
        tfembloss.EmbeddingClassifier, [encoder(0.5), NoisyHead(4)],
        losses.ArcFaceLoss(scale=4.0), points(n, 3), ids(n)),
    "towers": lambda n: (
        tfembloss.DualEncoder, [{"a": encoder(0.5), "b": encoder(0.3)}], losses.CLIPLoss(),
        columns(n), None),
}  # fmt: skip


def one_after_another(model_class, size):
    """The model with the same mini-batches, all of them under the one tape of Keras."""

    class OneAfterAnother(model_class):
        def call(self, x, training=None):
            if not training:
                return super().call(x, training=training)
            number = tf.nest.flatten(x)[0].shape[0]
            parts = []
            for start in range(0, number, size):
                rows = np.minimum(np.arange(start, start + size), number - 1)
                part = tf.nest.map_structure(lambda c, r=rows: tf.gather(c, r), x)
                parts.append(super().call(part, training=training))
            return tf.concat(parts, axis=0)[:number]

    return OneAfterAnother


adam = functools.partial(keras.optimizers.Adam, 0.01)
sgd = functools.partial(keras.optimizers.SGD, 0.1)


def train(model, loss, x, y=None, steps=3, optimizer=adam, in_graph=False):
    """Losses and weights of a few steps on one batch."""
    model.compile(optimizer(), loss)
    data = (x,) if y is None else (x, y)
    data = tf.nest.map_structure(tf.convert_to_tensor, data)
    model(data[0])  # builds it
    model.optimizer.build(model.trainable_variables)
    step = model.train_step
    if in_graph:  # which does not know the number of rows
        step = tf.function(step, [specs(data)], autograph=False)  # as Keras does
    logs = [float(step(data)["loss"]) for _ in range(steps)]
    return logs, model.get_weights()


def specs(data):
    return tf.nest.map_structure(
        lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), data
    )


def trained(setup, num_rows, size, **options):
    keras.utils.set_random_seed(1)
    model_class, parts, loss, x, y = SETUPS[setup](num_rows)
    return train(model_class(*parts, mini_batch_size=size), loss, x, y, **options)


@functools.cache
def trained_plainly(setup, num_rows, size, **options):
    keras.utils.set_random_seed(1)
    model_class, parts, loss, x, y = SETUPS[setup](num_rows)
    model = one_after_another(model_class, size)(*parts)
    return train(model, loss, x, y, **options)


def assert_same(one, other, tolerance=1e-5):
    (loss, weights), (expected_loss, expected) = one, other
    np.testing.assert_allclose(loss, expected_loss, rtol=tolerance)
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def difference(one, other):
    return max(np.abs(a - b).max() for a, b in zip(one[1], other[1], strict=True))


# The same numbers, dropout included.


@pytest.mark.usefixtures("replica_runs")  # which begin now, beside these tests
@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("num_rows, size", [(7, 3), (2, 4)])
def test_cached_is_plain_with_dropout(setup, num_rows, size):
    cached = trained(setup, num_rows, size)
    assert_same(cached, trained_plainly(setup, num_rows, size))


@pytest.mark.parametrize("setup", SETUPS)
def test_without_setting_the_seeds_back_it_is_not(setup, monkeypatch):
    plain = trained_plainly(setup, 7, 3)
    monkeypatch.setattr(grad_cache, "assign_seeds", lambda seeds, values: None)
    with pytest.raises(ValueError, match="computes the same when it is called again"):
        trained(setup, 7, 3)
    monkeypatch.setattr(grad_cache, "_refuse", lambda wrong, message: tf.zeros([]))
    assert difference(trained(setup, 7, 3), plain) > 1e-3


@pytest.mark.parametrize("setup", SETUPS)
def test_in_a_graph(setup):
    with kernels(compiled=True):
        in_graph = trained(setup, 7, 3, in_graph=True)
    assert_same(in_graph, trained_plainly(setup, 7, 3))


def test_compiled_by_xla():
    # Which has a random generator of its own: both are compiled.
    def run(model):
        model.compile(adam(), ranking(scale=2.0), jit_compile=True)
        batches = tfembloss.data.columns(*columns(14)).batch(7, drop_remainder=True)
        history = model.fit(batches, epochs=2, verbose=0)
        return history.history["loss"], model.get_weights()

    with kernels(compiled=True):
        plain = run(one_after_another(tfembloss.EmbeddingModel, 3)(seeded(encoder, 0.5)))
        cached = run(tfembloss.EmbeddingModel(seeded(encoder, 0.5), mini_batch_size=3))
    assert_same(cached, plain)


def test_several_steps_in_one_execution():
    def run(**options):
        model = tfembloss.EmbeddingModel(seeded(encoder, 0.5), mini_batch_size=3)
        model.compile(adam(), ranking(scale=2.0), **options)
        x, evaluated = columns(18), columns(5)  # the last batch has 4 rows
        history = model.fit(
            x, batch_size=7, shuffle=False, validation_data=(evaluated,), verbose=0
        )
        return history.history["loss"] + history.history["val_loss"], model.get_weights()

    expected = run(run_eagerly=True)
    with kernels(compiled=True):
        assert_same(run(steps_per_execution=2), expected)


def test_the_heads_weights_and_the_learned_scale_move():
    for setup, name in (("head", "centers"), ("towers", "log_scale")):
        model_class, parts, loss, x, y = SETUPS[setup](7)
        model = model_class(*parts, mini_batch_size=3)
        model(x)
        (weight,) = (v for v in model.trainable_weights if v.path.endswith(name))
        before = weight.numpy()
        train(model, loss, x, y, steps=1)
        assert np.abs(weight.numpy() - before).max() > 1e-3


# Every loss; every kind of encoder and of inputs.


def assert_cached_is_stock(make, loss, x, y=None, optimizer=sgd, **options):
    """Of a model without dropout: the same as the model without mini-batches."""
    results = []
    for size in (3, None):
        model = seeded(make, size)
        results.append(train(model, loss, x, y, optimizer=optimizer, **options))
    assert_same(*results)


def with_encoder(make_encoder):
    return lambda size: tfembloss.EmbeddingModel(make_encoder(), mini_batch_size=size)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in ONE_OF_EACH_LOSS  # those on lists are test_cross_encoder_lists'
        if not (loss := CASES[name].make()).takes_scores or isinstance(loss, ClassLoss)
    ],
)
def test_every_loss(name):
    case = CASES[name]
    y, x = case.inputs(8)
    x, loss = x.astype("float32"), case.make()

    def make(size):
        dense = keras.Sequential([keras.layers.Dense(DIM)])
        head = keras.layers.Identity()
        head.num_betas = getattr(loss, "num_betas", None)
        if isinstance(loss, ClassLoss) or head.num_betas:
            return tfembloss.EmbeddingClassifier(dense, head, mini_batch_size=size)
        model = tfembloss.EmbeddingModel(dense, mini_batch_size=size)
        model.predictor = loss.needs_predictor or None  # stands for one
        return model

    assert_cached_is_stock(
        make,
        loss,
        tuple(np.moveaxis(x, 1, 0)) if case.num_columns else x,
        None if case.targets is None else y,
        steps=1,
    )


def words():
    """An encoder of word ids: the gradient of its table is sparse."""
    return keras.Sequential(
        [
            keras.layers.Embedding(9, 4, embeddings_regularizer="l2"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(DIM),
        ]
    )


def of_dict():
    a, b = keras.Input([2], name="a"), keras.Input([1], name="b")
    both = keras.layers.Concatenate()([a, b])
    return keras.Model({"a": a, "b": b}, keras.layers.Dense(DIM)(both))


def partly_frozen():
    made = encoder()
    made.layers[0].trainable = False
    return made


def word_ids(num_rows, length, seed=0):
    return np.random.default_rng(seed).integers(9, size=[num_rows, length])


@pytest.mark.parametrize(
    "make_encoder, x",
    [
        (words, (word_ids(7, 5), word_ids(7, 5, seed=1))),
        (words, (word_ids(7, 5), word_ids(7, 8, seed=1))),
        (of_dict, tuple({"a": points(7, 2, seed=i), "b": points(7, 1)} for i in (1, 2))),
        (partly_frozen, columns(7)),
        (lambda: encoder(kernel_regularizer=keras.regularizers.L2(0.1)), columns(7)),
    ],
    ids=["words", "unequal lengths", "dicts", "partly frozen", "regularized"],
)
def test_encoders_and_inputs(make_encoder, x):
    assert_cached_is_stock(with_encoder(make_encoder), ranking(scale=2.0), x)


def test_the_towers_inputs_may_differ():
    def make(size):
        towers = {"words": words(), "points": encoder()}
        return tfembloss.DualEncoder(towers, mini_batch_size=size)

    for x in (
        (word_ids(7, 5), points(7, 3)),
        {"points": points(7, 3), "words": word_ids(7, 5)},
    ):
        assert_cached_is_stock(make, losses.CLIPLoss(), x)


def test_sampled_classes_keep_their_sparse_gradient():
    def make(size):
        head = tfembloss.layers.CosineHead(50)
        return tfembloss.EmbeddingClassifier(
            encoder(), head, num_sampled=10, mini_batch_size=size
        )

    loss = losses.CosFaceLoss(scale=4.0)
    assert_cached_is_stock(make, loss, points(7, 3), ids(7))


@pytest.fixture
def mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("setup", ["columns", "head", "towers"])
def test_mixed_precision_with_a_scaled_loss(setup, mixed_float16):
    def optimizer():
        made.append(keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=2.0**17))
        return made[-1]

    made = []
    cached = trained(setup, 7, 3, optimizer=optimizer, steps=4)
    plain = trained_plainly(setup, 7, 3, optimizer=optimizer, steps=4)
    assert_same(cached, plain, 2e-3)
    assert len(set(cached[0])) > 1
    cached_scale, plain_scale = (float(optimizer.dynamic_scale) for optimizer in made)
    # The scale is too large at first: the same steps are left out.
    assert cached_scale == plain_scale < 2.0**17


def test_sample_weights_and_metrics():
    def make(size):
        head = keras.layers.Dense(4)
        return tfembloss.EmbeddingClassifier(encoder(), head, mini_batch_size=size)

    logs = []
    for size in (3, None):
        keras.utils.set_random_seed(1)
        model = make(size)
        model.compile(
            "sgd", losses.SoftmaxLoss(),
            metrics=[keras.metrics.SparseCategoricalAccuracy()],
        )  # fmt: skip
        history = model.fit(
            points(7, 3), ids(7), sample_weight=np.arange(7.0), batch_size=5, epochs=2,
            shuffle=False, verbose=0, validation_data=(points(5, 3), ids(5)),
        )  # fmt: skip
        logs.append(history.history)
    assert len(logs[0]) == 4
    for name, values in logs[1].items():
        np.testing.assert_allclose(logs[0][name], values, rtol=1e-5, err_msg=name)


def test_a_weight_that_nothing_depends_on_stays_as_in_keras():
    class Idle(keras.layers.Dense):
        def call(self, x):
            return x

    def make_encoder():
        return keras.Sequential([Idle(3), keras.layers.Dense(DIM)])

    with pytest.warns(UserWarning, match="Gradients do not exist"):
        assert_cached_is_stock(with_encoder(make_encoder), ranking(), columns(7))


# Memory.


class Watching(keras.layers.Layer):
    """Notes how many rows it is given."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def call(self, x):
        self.seen.add(x.shape[0])
        return x


@pytest.mark.parametrize("num_rows", [2, 8, 9])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_encoder_never_sees_more_than_a_mini_batch(num_rows, compiled):
    watching = Watching()
    model = tfembloss.EmbeddingModel(
        keras.Sequential([watching, keras.layers.Dense(DIM)]), mini_batch_size=4
    )
    model.compile("sgd", losses.BatchAllTripletLoss(distance="squared_euclidean"))
    x, y = points(num_rows, 3), ids(num_rows)
    model.build(x.shape)
    model.optimizer.build(model.trainable_variables)
    watching.seen.clear()
    with kernels(compiled):
        if not compiled:
            model.train_step((tf.constant(x), y))
            model.test_step((tf.constant(x), y))
        else:
            for step in (model.train_step, model.test_step):
                tf.function(step).get_concrete_function(
                    (tf.TensorSpec([None, 3]), tf.TensorSpec([None], "int64"))
                )
    assert watching.seen == {4}


def test_the_graph_does_not_grow_with_the_batch():
    def number_of_nodes(num_rows):
        model = tfembloss.EmbeddingModel(encoder(0.5), mini_batch_size=4)
        model.compile("adam", ranking())
        model.build([(None, 3)] * 2)
        model.optimizer.build(model.trainable_variables)
        column = tf.TensorSpec([num_rows, 3])
        traced = tf.function(model.train_step).get_concrete_function(((column, column),))
        graph = traced.graph.as_graph_def()
        nodes = [len(function.node_def) for function in graph.library.function]
        return len(graph.node) + sum(nodes)

    with kernels(compiled=True):
        assert number_of_nodes(8) == number_of_nodes(64) > 100


# Saving.


def test_a_saved_model_goes_on_exactly(tmp_path):
    for setup in SETUPS:
        model_class, parts, loss, x, y = SETUPS[setup](7)
        if setup == "head":
            parts[1] = tfembloss.layers.CosineHead(4)
        model = model_class(*parts, mini_batch_size=3)
        train(model, loss, x, y, steps=1)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.mini_batch_size == 3
        after = [m.train_on_batch(x, y) for m in (model, loaded) for _ in range(2)]
        np.testing.assert_allclose(after[:2], after[2:], rtol=1e-6)
        assert difference((0, model.get_weights()), (0, loaded.get_weights())) < 1e-6


def test_a_config_from_before():
    for setup in SETUPS:
        model_class, parts, *_ = SETUPS[setup](7)
        if setup == "head":
            parts[1] = tfembloss.layers.CosineHead(4)
        config = model_class(*parts).get_config()
        assert config.pop("mini_batch_size") is None
        assert model_class.from_config(config).mini_batch_size is None


# What is refused.


@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True])
@pytest.mark.parametrize("setup", SETUPS)
def test_a_size_that_is_none(setup, size):
    model_class, parts, *_ = SETUPS[setup](7)
    with pytest.raises(ValueError, match=f"integer >= 1.*mini_batch_size={size!r}"):
        model_class(*parts, mini_batch_size=size)


def test_batch_normalization_unless_frozen():
    def make_encoder(trainable):
        return keras.Sequential(
            [
                keras.layers.Dense(8),
                keras.layers.BatchNormalization(trainable=trainable, name="by_batch"),
                keras.layers.Dense(DIM),
            ]
        )

    model = with_encoder(lambda: make_encoder(True))(3)
    with pytest.raises(ValueError, match=r"by_batch.*layer\.trainable = False"):
        train(model, ranking(), columns(7))
    assert_cached_is_stock(with_encoder(lambda: make_encoder(False)), ranking(), columns(7))
    # A head sees the whole batch.
    head = keras.Sequential([keras.layers.BatchNormalization(), keras.layers.Dense(4)])
    assert_cached_is_stock(
        lambda size: tfembloss.EmbeddingClassifier(
            encoder(), keras.models.clone_model(head), mini_batch_size=size
        ),
        losses.SoftmaxLoss(), points(7, 3), ids(7),
    )  # fmt: skip


class Adding(keras.layers.Layer):
    def call(self, x):
        self.add_loss(tf.reduce_mean(x))
        return x


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Dense(8, activity_regularizer="l2", name="adding"),
        lambda: Adding(name="adding"),
    ],
)
@pytest.mark.parametrize("in_graph", [False, True])
def test_losses_of_a_call(layer, in_graph):
    made = keras.Sequential([layer(), keras.layers.Dense(DIM)])
    model = with_encoder(lambda: made)(3)
    with pytest.raises(ValueError, match=r"adding.*kernel_regularizer"), kernels(in_graph):
        train(model, ranking(), columns(7), in_graph=in_graph)


# Several replicas.

# The ranking has 13 rows, 4, 4, 4 and 1 on four replicas; the others 12. In a graph on 2.
MODELS = {
    1: ("--eager", "--models", "cached-ranking", "cached-arc-face", "cached-clip"),
    2: ("--models", "cached-ranking", "cached-arc-face", "cached-clip"),
    4: ("--eager", "--models", "cached-ranking", "cached-clip"),
}


@pytest.fixture(scope="module")
def replica_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    runs = {n: Run(folder / str(n), n, *options) for n, options in MODELS.items()}
    yield runs
    for run in runs.values():
        run.process.kill()


def test_several_replicas_train_as_one_and_reduce_once(replica_runs):
    one, two, four = (run.finish() for run in replica_runs.values())
    assert two["cached-ranking/reductions"] == 1
    assert two["cached-ranking/collectives_in_loops"] == 0
    for results in (two, four):
        # Of uneven replicas Keras's history is not the mean of the rows' losses.
        for name in ("loss", "reductions", "collectives_in_loops"):
            del results[f"cached-ranking/{name}"]
        for name, value in results.items():
            np.testing.assert_allclose(value, one[name], rtol=1e-5, atol=1e-5, err_msg=name)
