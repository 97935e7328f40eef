"""Trains a small encoder with the losses of `cases` and writes losses and weights.

    python train.py OUT.npz NUM_REPLICAS [--only NAME ...] [--fit NAME ...] [--stock] ...

NUM_REPLICAS logical CPUs under MirroredStrategy; with TF_CONFIG in the environment this
process is one worker of MultiWorkerMirroredStrategy, and the first writes the file.

Without --fit: every case, two steps of gradient descent written out here, all cases in
one graph, because tracing `fit` for every case would take minutes. With --eager there is
no graph, whose making takes several times as long as the steps, and more for each replica.
"""

import argparse
import collections
import os
import sys
import tempfile

import numpy as np
import tensorflow as tf

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("num_replicas", type=int)
parser.add_argument("--fit", nargs="+", default=[])
parser.add_argument("--stock", action="store_true", help="`fit` of Keras's own models")
parser.add_argument("--models", nargs="*", help="`fit` of the other models, or of these")
parser.add_argument("--only", nargs="+", default=[], help="these cases instead of all")
parser.add_argument("--rows", type=int, default=12)
parser.add_argument("--uneven", action="store_true", help="the first has fewer rows")
parser.add_argument("--string-ids", action="store_true")
parser.add_argument("--no-gather", action="store_true")
parser.add_argument("--no-xla", action="store_true", help="kernels of TensorFlow alone")
parser.add_argument("--eager", action="store_true", help="replicas and kernels, not traced")
arguments = parser.parse_args()

if arguments.no_xla:  # before tfembloss makes its kernels
    tf_function = tf.function
    tf.function = lambda *args, jit_compile=None, **options: tf_function(*args, **options)

# Grappler, which takes longer than it saves in a few steps.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * arguments.num_replicas,
)
# A multi-worker strategy must be made before anything else touches the devices.
if "TF_CONFIG" in os.environ:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
elif arguments.num_replicas > 1:
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(arguments.num_replicas)]
    )
else:
    strategy = tf.distribute.get_strategy()

import keras  # noqa: E402
from cases import CASES, binary, ids  # noqa: E402
from checkpoints import unpack  # noqa: E402

import tfembloss  # noqa: E402


def all_gather(context, value, axis):
    """TensorFlow's own is for graphs only."""

    def joined(strategy, value):
        return tf.concat(strategy.experimental_local_results(value), axis)

    return context.merge_call(joined, args=(value,))


if arguments.eager:
    tf.config.run_functions_eagerly(True)
    tf.distribute.ReplicaContext.all_gather = all_gather

if arguments.no_gather:  # the negative control: each replica sees its own rows only
    tfembloss.replicas.gather = lambda x: x
    tfembloss.replicas.first_row = lambda x: 0


def inputs(case):
    y_true, x = case.inputs(arguments.rows)
    if case.num_columns == 0 and y_true.ndim == 1 and case.targets is not binary:
        y_true[-4:] = [1, 2, 3, 4]  # no anchor of the last replica of four is valid
    return y_true.astype("U") if arguments.string_ids else y_true, x.astype("float32")


def fit(case):
    """Losses, weights and what an evaluator measures, of three steps of `fit`."""
    y, x = inputs(case)
    x = tuple(np.moveaxis(x, 1, 0)) if case.num_columns else x
    data = tfembloss.data.from_arrays(x, None if case.targets is None else y)
    data = data.batch(arguments.rows)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        encoder = keras.Sequential([keras.layers.Dense(5)])  # built by the first batch
        model = tfembloss.EmbeddingModel(encoder)
        model.compile(keras.optimizers.SGD(0.1), loss=case.make())
    file = f"{arguments.out}.csv"
    evaluator = tfembloss.evaluation.SimilarityEvaluator(
        x[0], x[1], np.arange(arguments.rows) ** 2, csv_file=file, batch_size=5
    )
    history = model.fit(
        data, validation_data=data, epochs=3, verbose=0, shuffle=False,
        callbacks=[evaluator],
    )  # fmt: skip
    is_first = '"index": 1' not in os.environ.get("TF_CONFIG", "")
    assert is_first == os.path.exists(file)  # which one of several workers writes
    return {
        "loss": history.history["loss"],
        "val_loss": history.history["val_loss"],
        "pearson": history.history["val_pearson"],
        "weights": encoder.get_weights()[0],
    }


class Subclass(keras.Model):
    """A model such as users write, which Keras builds by calling it."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(6)

    def call(self, x):
        return self.dense(x)


def stock_model(kind, shape):
    """One of Keras's kinds of models, on rows of this shape."""
    if kind == 0:
        return Subclass()
    if kind == 1:
        return keras.Sequential([keras.layers.Dense(6)])
    x = keras.Input(shape)
    return keras.Model(x, keras.layers.Dense(6)(x))


def stock(case, kind, dtype, as_dataset):
    """Losses and weights of `fit` of a Keras model; the last batch is smaller."""
    y, x = inputs(case)
    if case.targets is ids:  # as users have them: small ones, also in a column
        y = (y - y.min()).astype(dtype)
        y = y[:, None] if as_dataset else y
    elif case.targets is None:  # not used, but Keras has no loss without y
        y = np.zeros([len(x), 0], dtype)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = stock_model(kind, x.shape[1:])
        model.compile(keras.optimizers.SGD(0.1), case.make(), run_eagerly=arguments.eager)
    options = {"verbose": 0, "shuffle": False}
    if as_dataset:
        history = model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(8), **options)
    else:
        history = model.fit(x, y, batch_size=8, **options)
    return {"loss": history.history["loss"], "weights": model.get_weights()[0]}


def stock_models():
    """Every case in one of Keras's models, with ids of one of the dtypes."""
    dtypes = ["int32", "int64", "uint8"]
    return {
        name: stock(case, i % 3, dtypes[i // 3 % 3], as_dataset=i % 2 == 1)
        for i, (name, case) in enumerate(CASES.items())
        if name in cases
    }


def trained(model, loss, x, y=None, optimizer=None, **options):
    """Losses and all weights of three steps of a model's `fit`."""
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, **options)
    if isinstance(y, tf.RaggedTensor):
        rows = tf.data.Dataset.from_tensor_slices((x, y)).batch(len(x[0]))
    else:
        rows = tfembloss.data.from_arrays(x, y).batch(len(tf.nest.flatten(x)[0]))
    history = model.fit(rows, epochs=3, verbose=0)
    weights = np.concatenate([np.ravel(v) for v in model.get_weights()])
    losses = {k: v for k, v in history.history.items() if k.endswith("loss")}
    return {**losses, "weights": weights}


def classifier(loss, num_classes, head=None, **options):
    """A classifier, its head with an optimizer of its own."""
    x = np.random.default_rng(0).normal(size=[arguments.rows, 6]).astype("float32")
    y = np.random.default_rng(1).integers(num_classes, size=arguments.rows)
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = tfembloss.EmbeddingClassifier(
            keras.Sequential([keras.layers.Dense(5)]),
            head or tfembloss.layers.CosineHead(num_classes),
            **options,
        )
        return trained(model, loss, x, y, head_optimizer=keras.optimizers.SGD(1.0))


def sharded(loss, num_classes=7, **options):
    """A classifier of which each of several replicas holds a part of the centers.

    Also as it is saved and loaded, on one replica, and on these to train further.
    """
    x = np.random.default_rng(0).normal(size=[arguments.rows, 6]).astype("float32")
    y = np.random.default_rng(1).integers(num_classes, size=arguments.rows)
    data = tfembloss.data.from_arrays(x, y).batch(arguments.rows)
    shard = strategy.num_replicas_in_sync > 1
    with strategy.scope():
        keras.utils.set_random_seed(0)
        encoder = keras.Sequential([keras.Input([6]), keras.layers.Dense(5)])
        head = tfembloss.layers.CosineHead(num_classes, shard=shard, **options)
        model = tfembloss.EmbeddingClassifier(encoder, head)
        adam = keras.optimizers.Adam(0.05)
        losses = trained(
            model, loss, x, y, head_optimizer=adam, metrics=["accuracy"]
        )["loss"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        alone = keras.models.load_model(f"{folder}/model.keras")
        with strategy.scope():
            again = keras.models.load_model(f"{folder}/model.keras")
    of_optimizer = [np.ravel(v.numpy()) for v in alone.optimizer.head_optimizer.variables]
    return {
        "loss": losses,
        "saved": np.concatenate([*map(np.ravel, alone.get_weights()), *of_optimizer]),
        "further": again.fit(data, validation_data=data, verbose=0).history["val_loss"],
        "accuracy": again.history.history["val_accuracy"],
    }


def dual_encoder(loss, **options):
    """Two towers with learned numbers."""
    rng = np.random.default_rng(0)
    x = tuple(rng.normal(size=[2, arguments.rows, 6]).astype("float32"))
    with strategy.scope():
        keras.utils.set_random_seed(0)
        towers = {name: keras.Sequential([keras.layers.Dense(5)]) for name in "ab"}
        return trained(tfembloss.DualEncoder(towers, **options), loss, x)


def embedding_model(loss, rows, y=None, **options):
    """A model on columns, or with labels on one."""
    rng = np.random.default_rng(0)
    x = tuple(rng.normal(size=[2, rows, 6]).astype("float32"))
    x = x if y is None else x[0]
    with strategy.scope():
        keras.utils.set_random_seed(0)
        encoder = keras.Sequential([keras.layers.Dense(5)])
        return trained(tfembloss.EmbeddingModel(encoder, **options), loss, x, y)


def momentum_model(loss, predicts=False, **options):
    """An encoder and its average, on two views."""
    x = tuple(np.random.default_rng(0).normal(size=[2, arguments.rows, 6]).astype("f"))
    with strategy.scope():
        keras.utils.set_random_seed(0)
        norm = keras.layers.BatchNormalization(synchronized=True)
        encoder = keras.Sequential([keras.Input([6]), keras.layers.Dense(5), norm])
        predictor = keras.layers.Dense(5) if predicts else None
        model = tfembloss.MomentumModel(
            encoder, predictor=predictor, momentum=0.9, **options
        )
        return trained(model, loss, x)


def several_tasks():
    """Two tasks with one encoder, pairs and labels with a head, and batches in turn."""
    a, b, c = np.random.default_rng(0).normal(size=[3, arguments.rows, 6]).astype("f")
    labels = np.arange(arguments.rows) % 3
    with strategy.scope():
        keras.utils.set_random_seed(0)
        encoder = keras.Sequential([keras.layers.Dense(5)])
        head = tfembloss.layers.CosineHead(3)
        tasks = {
            "pairs": tfembloss.EmbeddingModel(encoder, learn_scale=True),
            "labels": tfembloss.EmbeddingClassifier(encoder, head),
        }
        model = tfembloss.MultiTaskModel(tasks)
        losses = {
            "pairs": tfembloss.losses.MultipleNegativesRankingLoss(scale=5.0),
            "labels": tfembloss.losses.ArcFaceLoss(scale=5.0),
        }
        model.compile(keras.optimizers.Adam(0.01), losses, loss_weights={"labels": 0.5})
    history = model.fit(
        {"pairs": (a, b), "labels": c}, {"labels": labels}, batch_size=8, shuffle=False,
        mixing="round_robin", epochs=2, verbose=0,
        validation_data=({"labels": c}, {"labels": labels}),
    ).history  # fmt: skip
    return {
        **history,
        "weights": np.concatenate([np.ravel(v) for v in model.get_weights()]),
    }


def mixed():
    """A stream of batches of two datasets."""
    rows = np.random.default_rng(0).normal(size=[2, 2, 18, 6]).astype("float32")
    datasets = {
        name: tfembloss.data.columns(*columns).batch(8)
        for name, columns in zip("ab", rows, strict=True)
    }
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = tfembloss.EmbeddingModel(keras.Sequential([keras.layers.Dense(5)]))
        model.compile("sgd", tfembloss.losses.MultipleNegativesRankingLoss(scale=5.0))
    batches = tfembloss.data.mix(datasets, weights={"a": 2, "b": 1})
    losses = model.fit(batches, epochs=2, verbose=0).history["loss"]
    return {"loss": losses, "weights": model.get_weights()[0]}


def of_several_optimizers():
    """A model whose kernels, biases and first layer have optimizers of their own."""
    x = tuple(np.random.default_rng(0).normal(size=[2, arguments.rows, 6]).astype("f"))
    with strategy.scope():
        keras.utils.set_random_seed(0)
        first = keras.layers.Dense(4, "tanh")
        encoder = keras.Sequential([keras.Input([6]), first, keras.layers.Dense(5)])
        averaged = keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True)
        optimizer = tfembloss.optimizers.MultiOptimizer(
            keras.optimizers.SGD(0.1, momentum=0.9),
            [("bias", keras.optimizers.SGD(1.0)), (first, averaged)],
        )
        loss = tfembloss.losses.MultipleNegativesRankingLoss(scale=1.0)
        return trained(tfembloss.EmbeddingModel(encoder), loss, x, optimizer=optimizer)


def text_model(model_class, loss, *others, y=None):
    """A model on texts."""
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(10)]
    texts = np.array([" ".join(rng.choice(words, 1 + i % 4)) for i in range(12)])
    with strategy.scope():
        keras.utils.set_random_seed(0)
        vocabulary = ["[PAD]", "[UNK]", *words]
        encoder = tfembloss.text.TextEncoder(12, dim=6, sequence_length=8, dropout=0.0)
        preprocessor = tfembloss.text.TextPreprocessor(vocabulary, 4)
        if model_class is tfembloss.CrossEncoder:
            preprocessor = tfembloss.text.TextPairPreprocessor(vocabulary, 4, 4)
        model = model_class(encoder, preprocessor, *others)
        x = texts if y is None else (texts, np.roll(texts, 6))
        return trained(model, loss, x, y)


def layers():
    """An encoder with blocks, of which one is drawn in each step, and dimensions."""
    x = np.random.default_rng(0).integers(1, 12, size=[2, arguments.rows - 1, 4])
    with strategy.scope():
        keras.utils.set_random_seed(0)
        encoder = tfembloss.text.TextEncoder(
            12, dim=6, sequence_length=4, num_layers=2, num_heads=1, dropout=0.0
        )
        loss = tfembloss.losses.Matryoshka2dLoss(
            tfembloss.losses.MultipleNegativesRankingLoss(scale=2.0), dims=[6, 4, 2]
        )
        return trained(tfembloss.EmbeddingModel(encoder), loss, tuple(x))


def lists_of_texts(loss, draws=False):
    """A cross-encoder on lists of documents, some longer than others."""
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(10)]
    queries = np.array(words * 2)[: arguments.rows]
    lists = [[" ".join(rng.choice(words, 3)) for _ in range(1 + i % 4)] for i in range(12)]
    labels = [[float(i % 2) for i, _ in enumerate(texts)] for texts in lists]
    with strategy.scope():
        keras.utils.set_random_seed(0)
        encoder = tfembloss.text.TextEncoder(12, dim=6, sequence_length=8, dropout=0.0)
        preprocessor = tfembloss.text.TextPairPreprocessor(["[PAD]", "[UNK]", *words], 4, 4)
        model = tfembloss.CrossEncoder(encoder, preprocessor)
        if draws:
            x = queries, np.array([texts[0] for texts in lists])
            return trained(model, loss, x)
        x = tf.constant(queries), tf.ragged.constant(lists)
        return trained(model, loss, x, tf.ragged.constant(labels))


def hard_negatives():
    """A model on the negatives that it mines itself before each epoch."""
    rng = np.random.default_rng(0)
    letters = [list(map(chr, range(97, 123)))] * 12
    queries, answers = (["".join(rng.choice(of, n)) for of in letters] for n in (5, 7))

    def tokens(texts):
        return tf.cast(tf.io.decode_raw(texts, tf.uint8, fixed_length=7), tf.int32)

    with strategy.scope():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Embedding(128, 6), keras.layers.GlobalAveragePooling1D()]
        model = tfembloss.EmbeddingModel(keras.Sequential(layers), tokens)
        loss = tfembloss.losses.MultipleNegativesRankingLoss(scale=5.0)
        model.compile(keras.optimizers.SGD(1.0), loss)
    mining = tfembloss.callbacks.HardNegativeMining(
        queries, answers, answers, num_negatives=2, seed=0, verbose=0
    )
    batches, rows = mining.batches(6), []

    class Record(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rows.append([np.stack(x) for (x,) in batches.as_numpy_iterator()])

    history = model.fit(batches, epochs=3, callbacks=[mining, Record()], verbose=0)
    ids = {text.encode(): i for i, text in enumerate([*queries, *answers])}
    return {
        "loss": history.history["loss"],
        "weights": model.get_weights()[0],
        "rows": np.vectorize(ids.get)(rows),
    }


def equal_texts():
    """A model on pairs of which questions and answers occur several times."""
    questions = np.array([f"w{i % 5}" for i in range(12)])
    answers = np.array([f"w{4 + i % 4}" for i in range(12)])
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = tfembloss.EmbeddingModel(
            tfembloss.text.TextEncoder(10, dim=6, sequence_length=8, dropout=0.0),
            tfembloss.text.TextPreprocessor(
                ["[PAD]", "[UNK]", *(f"w{i}" for i in range(8))], 4
            ),
            exclude_equal_texts=True,
        )
        loss = tfembloss.losses.MultipleNegativesRankingLoss(
            5.0, symmetric=True, exclude_equal_ids=True
        )
        return trained(model, loss, (questions, answers))


def pretrained():
    """An encoder from a checkpoint, with prompts, on texts of several lengths."""
    words = ["free", "and equal", "in dignity " * 9, "born " * 20]
    texts = np.array([f"{words[i % 4]} {i}" for i in range(12)])
    with tempfile.TemporaryDirectory() as folder, strategy.scope():
        bert = unpack(folder, "bert") / "bert"
        model = tfembloss.EmbeddingModel.from_pretrained(bert, dropout=0.0)
        loss = tfembloss.losses.MultipleNegativesRankingLoss(scale=1.0)
        return trained(model, loss, (texts, np.roll(texts, 6)))


def counting_reductions(train_it):
    """Also how often a replica reduces gradients in a step, and what it reduces in loops.

    An optimizer reduces a list of gradients, a loss single tensors.
    """
    context, calls = tf.distribute.ReplicaContext, []
    methods = {name: getattr(context, name) for name in ("all_reduce", "all_gather")}

    def recording(method):
        def recorded(self, *args, **kwargs):
            of_gradients = any(isinstance(argument, list) for argument in args)
            calls.append((tf.compat.v1.get_default_graph(), of_gradients))
            return method(self, *args, **kwargs)

        return recorded

    for name, method in methods.items():
        setattr(context, name, recording(method))
    results = train_it()
    for name, method in methods.items():
        setattr(context, name, method)
    reductions = collections.Counter(graph for graph, of_gradients in calls if of_gradients)
    return {
        **results,
        # The replicas are traced into one graph.
        "reductions": max(reductions.values()) / strategy.num_replicas_in_sync,
        "collectives_in_loops": sum(in_loop(graph) for graph, _ in calls),
    }


def in_loop(graph):
    while graph is not None and "while" not in getattr(graph, "name", ""):
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


MODELS = {
    "ArcFaceLoss": lambda: classifier(tfembloss.losses.ArcFaceLoss(scale=8.0), 4),
    "ProxyAnchorLoss": lambda: classifier(tfembloss.losses.ProxyAnchorLoss(alpha=4.0), 4),
    "sampled": lambda: classifier(
        tfembloss.losses.AdaFaceLoss(scale=8.0), 50, num_sampled=20
    ),
    "MarginLoss": lambda: classifier(
        tfembloss.losses.MarginLoss(nu=0.1, num_betas=4), 4, tfembloss.layers.MarginHead(4)
    ),
    "shards": lambda: sharded(
        tfembloss.losses.ArcFaceLoss(0.3, 8.0, label_smoothing=0.1), sub_centers=2
    ),
    "gathered shards": lambda: sharded(tfembloss.losses.ProxyAnchorLoss(alpha=4.0)),
    "CLIPLoss": lambda: dual_encoder(tfembloss.losses.CLIPLoss()),
    "optimizers": of_several_optimizers,
    "memory": lambda: embedding_model(
        tfembloss.losses.MultipleNegativesRankingLoss(scale=1.0),
        arguments.rows,
        memory=tfembloss.layers.CrossBatchMemory(20),
    ),
    "MoCo": lambda: momentum_model(
        tfembloss.losses.MultipleNegativesRankingLoss(scale=1.0),
        memory=tfembloss.layers.CrossBatchMemory(20),
    ),
    "BYOL": lambda: momentum_model(tfembloss.losses.SimSiamLoss(), predicts=True),
    "scale": lambda: embedding_model(
        tfembloss.losses.MultipleNegativesRankingLoss(scale=5.0),
        arguments.rows - 1,
        learn_scale=True,
    ),
    "scale in parts": lambda: embedding_model(
        tfembloss.losses.WeightedSum(
            {
                "rank": tfembloss.losses.MatryoshkaLoss(
                    tfembloss.losses.MultipleNegativesRankingLoss(5.0, symmetric=True),
                    dims=[5, 2],
                ),
                "pairs": tfembloss.losses.SigLIPLoss(5.0),
                "spread": tfembloss.losses.LpRegularizationLoss(),
            }
        ),
        arguments.rows - 1,
        learn_scale=True,
        initial_bias=-2.0,
    ),
    "sum": lambda: embedding_model(
        tfembloss.losses.WeightedSum(
            {
                "rank": tfembloss.losses.MultipleNegativesRankingLoss(scale=1.0),
                "spread": tfembloss.losses.GlobalOrthogonalRegularizationLoss(),
            }
        ),
        arguments.rows - 1,
    ),
    "tasks": several_tasks,
    "mixed": mixed,
    "texts": equal_texts,
    "SigLIPLoss": lambda: dual_encoder(
        tfembloss.losses.SigLIPLoss(), initial_scale=10.0, initial_bias=-10.0
    ),
}
LABELS = [0, 1, 1] * 4
MODELS |= {
    "histogram": lambda: embedding_model(
        tfembloss.losses.DynamicSoftMarginLoss(),
        len(LABELS),
        np.array(LABELS),
        memory=tfembloss.layers.TripletHistogram(momentum=0.5),
    ),
    "mining": hard_negatives,
    "layers": layers,
    "DenoisingAutoEncoderLoss": lambda: text_model(
        tfembloss.DenoisingAutoEncoder,
        tfembloss.losses.DenoisingAutoEncoderLoss(),
        tfembloss.models.SentenceDecoder(dropout=0.0),
        # Of a fixed seed: on several replicas an epoch may be another one's number.
        lambda texts, _: tfembloss.text.DeleteWords()(texts, 7),
    ),
    "tension": lambda: text_model(
        tfembloss.ContrastiveTensionModel,
        tfembloss.losses.ContrastiveTensionLoss(),
        y=LABELS,
    ),
    "lists": lambda: lists_of_texts(tfembloss.losses.LambdaLoss(k=2)),
    "lists of pairs": lambda: lists_of_texts(
        keras.losses.BinaryCrossentropy(from_logits=True)
    ),
    "drawn": lambda: lists_of_texts(
        tfembloss.losses.CrossEncoderMultipleNegativesRankingLoss(3, seed=0), draws=True
    ),
    "cross": lambda: text_model(
        tfembloss.CrossEncoder,
        keras.losses.BinaryCrossentropy(from_logits=True),
        y=LABELS,
    ),
}
OTHERS = {  # other tests ask for them by name
    "pretrained": pretrained,
    "cached-ranking": lambda: counting_reductions(
        lambda: embedding_model(
            tfembloss.losses.MultipleNegativesRankingLoss(scale=1.0),
            arguments.rows + 1,
            mini_batch_size=4,
        )
    ),
    "cached-arc-face": lambda: classifier(
        tfembloss.losses.ArcFaceLoss(scale=8.0), 4, mini_batch_size=4
    ),
    "cached-clip": lambda: dual_encoder(tfembloss.losses.CLIPLoss(), mini_batch_size=4),
}


def shards(rows):
    """The rows of each replica, as one distributed value."""
    num_replicas = strategy.num_replicas_in_sync
    cuts = np.linspace(0, len(rows), num_replicas + 1).astype(int)
    if arguments.uneven:
        cuts[1:-1] -= 1  # and the last has more
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            rows[slice(*cuts[context.replica_id_in_sync_group :][:2])]
        )
    )


def descend(cases):
    """Losses and weights of two steps of gradient descent, for all cases at once."""
    losses = {name: case.make() for name, case in cases.items()}
    batches = {name: tuple(map(shards, inputs(case))) for name, case in cases.items()}
    dim = 6
    start = np.random.default_rng(0).normal(size=[dim, dim]).astype("float32")

    def replica_step(batches, weights):
        context = tf.distribute.get_replica_context()
        total = lambda x: context.all_reduce("SUM", x)  # noqa: E731
        values, new = {}, {}
        for name, (y_true, x) in batches.items():
            with tf.GradientTape() as tape:
                tape.watch(weights[name])
                y_pred = tf.matmul(x, tf.broadcast_to(weights[name], _stack(x, dim)))
                value = losses[name](y_true, y_pred)
            values[name] = total(value)
            new[name] = weights[name] - 0.1 * total(tape.gradient(value, weights[name]))
        return values, new

    @tf.function(autograph=False)
    def step(weights):
        values, new = strategy.run(replica_step, args=(batches, weights))
        first = lambda value: strategy.experimental_local_results(value)[0]  # noqa: E731
        return tf.nest.map_structure(first, (values, new))

    weights, history = {name: tf.constant(start) for name in cases}, []
    for _ in range(2):
        values, weights = step(weights)
        history.append(values)
    return {
        name: {"loss": [values[name] for values in history], "weights": weights[name]}
        for name in cases
    }


def _stack(x, dim):
    return [dim, dim] if len(x.shape) == 2 else [tf.shape(x)[0], dim, dim]


cases = CASES
if arguments.only:
    cases = {name: CASES[name] for name in arguments.only}
results = {name: fit(CASES[name]) for name in arguments.fit}
if arguments.models is not None:
    names = arguments.models or MODELS
    results |= {name: (MODELS | OTHERS)[name]() for name in names}
elif arguments.stock:
    results = stock_models()
elif not arguments.fit:
    results = descend(cases)

if '"index": 1' not in os.environ.get("TF_CONFIG", ""):
    flat = {f"{name}/{key}": x for name, part in results.items() for key, x in part.items()}
    np.savez(arguments.out, **flat)
