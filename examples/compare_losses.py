"""Every loss on labels and on class centers, on the same images: which separates digits?

    python examples/image_labels.py --loss all          # a quarter of an hour
    python examples/image_labels.py --loss SupConLoss ArcFaceLoss

Each loss has its default arguments, except for those of OPTIONS, trains the same encoder
on the same batches with the same optimizer, and is measured on digits not seen in training.
It is a small task, on which no argument was tuned: other data have another order.
"""

import inspect
import time

import numpy as np

SEEDS = 5
STEPS = 100
CLASSES_PER_BATCH, ITEMS_PER_CLASS = 16, 4
METRICS = ["map@r", "precision@1"]
# What has to differ from the defaults, which are the peers'. Scales of 64 are for thousands
# of classes: with few, the gradient vanishes too soon.
SCALE = 16.0
OPTIONS = {
    "AdaFaceLoss": {"scale": SCALE},
    "ArcFaceLoss": {"scale": SCALE},
    "CombinedMarginLoss": {"scale": SCALE},
    "CosFaceLoss": {"scale": SCALE},
    "CurricularFaceLoss": {"scale": SCALE},
    "ElasticFaceLoss": {"scale": SCALE},
    "MagFaceLoss": {"scale": SCALE},
    "SphereFaceLoss": {"scale": SCALE},
}
# Regularizers of other losses, and bases for losses of one's own.
LEFT_OUT = {"IntraPairVarianceLoss", "LabelLoss", "PairLoss", "SoftmaxLoss"}


def names():
    """Returns the names of all losses on labels and on class centers."""
    from tfembloss import losses

    base = losses.LabelLoss
    every = {name: getattr(losses, name) for name in losses.__all__}
    return [
        name
        for name, loss in every.items()
        if inspect.isclass(loss) and (issubclass(loss, base) or _is_of_classes(loss))
        if name not in LEFT_OUT
    ]


def _is_of_classes(loss):
    """Whether a loss takes the scores of class centers."""
    from tfembloss.losses.classification.base import ClassLoss

    return issubclass(loss, ClassLoss)


def make_model(name, image_encoder, num_classes):
    """Makes a compiled model of a loss, with the head or memory that the loss needs."""
    import keras

    import tfembloss
    from tfembloss import layers

    rates = [keras.optimizers.schedules.CosineDecay(rate, STEPS) for rate in (2e-3, 1e-2)]
    of_encoder, of_head = map(keras.optimizers.Adam, rates)
    encoder = image_encoder()
    loss = getattr(tfembloss.losses, name)(**OPTIONS.get(name, {}))
    if _is_of_classes(type(loss)):
        options = {"sub_centers": 3, "temperature": 0.1} if name == "SoftTripleLoss" else {}
        head = layers.CosineHead(num_classes, **options)
        head.build(encoder.output_shape)
        model = tfembloss.EmbeddingClassifier(encoder, head)
        model.compile(of_encoder, loss, head_optimizer=of_head, steps_per_execution=10)
    else:
        memory = layers.TripletHistogram() if name == "DynamicSoftMarginLoss" else None
        model = tfembloss.EmbeddingModel(encoder, memory=memory)
        model.compile(of_encoder, loss, steps_per_execution=10)
    return model


def batches(images, labels, seed):
    """Returns a dataset of all steps of a training, of equally many rows of each class."""
    import tensorflow as tf

    import tfembloss

    data = tfembloss.data.balanced_batches(
        images,
        labels,
        classes_per_batch=CLASSES_PER_BATCH,
        items_per_class=ITEMS_PER_CLASS,
        seed=seed,
    )
    steps = list(data.repeat().take(STEPS).as_numpy_iterator())
    x, y = (np.stack(part) for part in zip(*steps, strict=True))
    return tf.data.Dataset.from_tensor_slices((x, y))


def start_anew(model, name, image_encoder, num_classes, seed):
    """Gives a model the weights of a new one: it need not be traced again."""
    import keras

    keras.utils.set_random_seed(seed)
    fresh = make_model(name, image_encoder, num_classes)
    for old, new in zip(model.weights, fresh.weights, strict=True):
        old.assign(new)
    for variable in model.optimizer.variables:  # counts and moments, which start at 0
        variable.assign(np.zeros(variable.shape))


def measure(name, image_encoder, data, images, digits, num_classes):
    """Trains one loss with each seed. Returns the metrics `[seeds, metrics]`."""
    import tfembloss

    model, found = make_model(name, image_encoder, num_classes), []
    for seed, of_seed in enumerate(data):
        start_anew(model, name, image_encoder, num_classes, seed)
        model.fit(of_seed, verbose=0)
        embeddings = model.predict(images, batch_size=len(images), verbose=0)
        result = tfembloss.evaluation.label_retrieval_metrics(embeddings, digits, METRICS)
        found.append([result[metric] for metric in METRICS])
    return np.array(found)


def compare(chosen, image_encoder, seen, images, digits):
    """Trains and measures each of the chosen losses, and prints them, the best first."""
    import keras

    num_classes = len(set(seen[1]))
    data = [batches(*seen, seed) for seed in range(SEEDS)]
    bar, found = keras.utils.Progbar(len(chosen), unit_name="loss"), {}
    start = time.perf_counter()
    for done, name in enumerate(chosen):
        found[name] = measure(name, image_encoder, data, images, digits, num_classes)
        bar.update(done + 1)
    seconds = time.perf_counter() - start
    print(
        f"\n{len(chosen)} losses, {SEEDS} seeds, {STEPS} steps of "
        f"{CLASSES_PER_BATCH * ITEMS_PER_CLASS} images: {seconds:.0f} s"
    )
    print(f"{'':36}{'MAP@R':>7} {'spread':>7} {'recall@1':>9}")
    for name in sorted(found, key=lambda name: -found[name][:, 0].mean()):
        map_at_r, recall = found[name].T
        print(f"{name:36}{map_at_r.mean():7.3f} {map_at_r.std():7.3f} {recall.mean():9.3f}")
    return found
