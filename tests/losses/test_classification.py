import math

import goldens
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

from tfembloss.layers import CosineHead
from tfembloss.losses import (
    ArcFaceLoss,
    CombinedMarginLoss,
    CosFaceLoss,
    CurricularFaceLoss,
    ElasticFaceLoss,
    NormalizedSoftmaxLoss,
    P2SGradLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftmaxLoss,
)
from tfembloss.losses.classification import margins

plain_kernels = goldens.plain_kernels

ON_COSINES = {
    ArcFaceLoss: oracles.arc_face,
    CosFaceLoss: oracles.cos_face,
    NormalizedSoftmaxLoss: oracles.normalized_softmax,
    ProxyNCALoss: oracles.proxy_nca,
    ProxyAnchorLoss: oracles.proxy_anchor,
    P2SGradLoss: oracles.p2s_grad,
    CombinedMarginLoss: oracles.combined_margin,
    CurricularFaceLoss: oracles.curricular_face,
}
on_cosines = pytest.mark.parametrize("make, oracle", ON_COSINES.items())


def cosines_of(num_rows=8, num_classes=5, seed=0):
    """Labels, of which not every class has one, and cosines."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes - 2, size=num_rows)
    return labels, rng.uniform(-1, 1, size=[num_rows, num_classes])


@on_cosines
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cosines_of_exactly_one(make, oracle, dtype):
    """The peer's ArcFaceLoss gives NaN: an angle has no slope there."""
    labels = np.arange(8) % 5
    cosines = np.ones([8, 5], dtype)
    cosines[::2] *= -1
    cosines[1, 0] = cosines[4, 2] = 0.5
    expected = oracle(labels, cosines.astype("float64"))
    rtol = 1e-9 if dtype == "float64" else 1e-5
    loss = make(reduction=None, dtype=dtype)
    with goldens.kernels(compiled=True):
        values, gradient = goldens.value_and_gradient(loss, labels, cosines)
        np.testing.assert_allclose(values, expected, rtol=rtol, atol=1e-5)
        assert np.isfinite(gradient).all()
        # As rounding makes them, beyond what a cosine can be.
        cosines = np.nextafter(cosines, 2 * cosines)
        values, gradient = goldens.value_and_gradient(loss, labels, cosines)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
        assert np.isfinite(gradient).all()


@on_cosines
def test_embeddings_at_their_centre_or_opposite(make, oracle):
    head = CosineHead(5)
    head.build([8, 4])
    centers = np.random.default_rng(0).normal(size=[5, 4]).astype("float32")
    head.set_weights([centers])
    labels = np.arange(8) % 5
    x = tf.constant(centers[labels] * np.where(np.arange(8) % 2, 3, -3)[:, None], "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = make()(labels, head(x))
    assert np.isfinite(value)
    for gradient in tape.gradient(value, [x, head.centers.value]):
        assert np.isfinite(gradient).all()


def test_the_loss_grows_with_the_angle_up_to_180_degrees():
    """Past 180 degrees less the margin, cos(angle + margin) would rise again."""
    angles = np.radians(np.arange(1, 180, 2.0))
    labels, cosines = np.zeros(len(angles), int), np.zeros([len(angles), 5])
    cosines[:, 0] = np.cos(angles)
    margin = math.radians(40)
    loss = ArcFaceLoss(margin, 4.0, reduction=None, dtype="float64")
    values, gradient = goldens.value_and_gradient(loss, labels, cosines)
    expected = oracles.arc_face(labels, cosines, margin, 4.0)
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    assert (np.diff(values) > 0).all()
    assert (gradient[:, 0] < 0).all()
    assert np.count_nonzero(angles > math.pi - margin) == 20


@pytest.mark.parametrize("options", [(1.0, 0.7, 0.0), (3.0, 0.0, 0.0), (2.5, 3.0, 0.1)])
def test_combined_margins_let_the_loss_grow_up_to_180_degrees(options):
    angles = np.radians(np.arange(1, 180, 2.0))
    labels, cosines = np.zeros(len(angles), int), np.zeros([len(angles), 5])
    cosines[:, 0] = np.cos(angles)
    loss = CombinedMarginLoss(*options, scale=4.0, reduction=None, dtype="float64")
    values, gradient = goldens.value_and_gradient(loss, labels, cosines)
    expected = oracles.combined_margin(labels, cosines, *options, scale=4.0)
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    assert (np.diff(values) > 0).all()
    assert (gradient[:, 0] < 0).all()


def test_combined_margins_are_those_of_other_losses():
    labels, cosines = cosines_of()
    cosines = np.abs(cosines)  # at most 90 degrees: the margin does not lead beyond 180
    options = {"scale": 16.0, "reduction": None, "dtype": "float64"}
    for combined, loss in {
        (1.0, 0.5, 0.0): ArcFaceLoss(0.5, **options),
        (1.0, 0.0, 0.35): CosFaceLoss(0.35, **options),
    }.items():
        np.testing.assert_allclose(
            CombinedMarginLoss(*combined, **options)(labels, cosines),
            loss(labels, cosines),
            rtol=1e-9,
        )


def test_curricular_face_is_arc_face_without_hard_negatives():
    cosines = np.full([8, 5], 0.1)
    labels = np.arange(8) % 5
    cosines[np.arange(8), labels] = 0.9
    options = {"margin": 0.5, "reduction": None, "dtype": "float64"}
    easy = CurricularFaceLoss(**options)(labels, cosines)
    np.testing.assert_allclose(easy, ArcFaceLoss(**options)(labels, cosines), rtol=1e-9)
    cosines[0] = 0.9  # hard, and t is 0.9: the others count more
    hard = CurricularFaceLoss(**options)(labels, cosines)
    assert hard[0] > ArcFaceLoss(**options)(labels, cosines)[0] + 1
    np.testing.assert_allclose(hard[1:], easy[1:], rtol=1e-9)


def test_relations():
    labels, cosines = cosines_of()
    options = {"reduction": None, "dtype": "float64"}
    expected = NormalizedSoftmaxLoss(1 / 16, **options)(labels, cosines)
    for loss in (
        ArcFaceLoss(0.0, 16.0, **options),
        CosFaceLoss(0.0, 16.0, **options),
        ProxyNCALoss(8.0, **options),
    ):
        np.testing.assert_allclose(loss(labels, cosines), expected, rtol=1e-9)
    np.testing.assert_allclose(
        SoftmaxLoss(**options)(labels, 16 * cosines), expected, rtol=1e-9
    )


@pytest.mark.parametrize("seed", range(2))
def test_each_proxys_terms_are_shared_out(seed):
    labels, cosines = cosines_of(seed=seed)
    options = {"reduction": None, "dtype": "float64"}
    for margin, alpha in [(0.1, 32.0), (-0.2, 4.0)]:
        np.testing.assert_allclose(
            ProxyAnchorLoss(margin, alpha, **options)(labels, cosines),
            oracles.proxy_anchor(labels, cosines, margin, alpha),
            rtol=1e-9,
            atol=1e-12,
        )
    loss = ProxyAnchorLoss(0.1, 4.0, **options)
    alike = np.full([8, 5], 0.25)  # equal cosines have equal shares
    values = loss(labels, alike)
    np.testing.assert_allclose(
        values, oracles.proxy_anchor(labels, alike, 0.1, 4.0), rtol=1e-9
    )
    same = labels == labels[0]
    np.testing.assert_allclose(np.array(values)[same], values[0], rtol=1e-12)


@pytest.mark.parametrize("num_rows", [1, 8])
def test_proxies_of_one_class(num_rows):
    labels, cosines = cosines_of(num_rows)
    labels = np.full_like(labels, 3)
    values, gradient = goldens.value_and_gradient(
        ProxyAnchorLoss(reduction=None, dtype="float64"), labels, cosines
    )
    np.testing.assert_allclose(
        values, oracles.proxy_anchor(labels, cosines), rtol=1e-9, atol=1e-12
    )
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("make", [ArcFaceLoss, CosFaceLoss, ProxyAnchorLoss])
def test_a_large_scale_does_not_overflow(make):
    labels, cosines = cosines_of()
    with goldens.kernels(compiled=True):
        value, gradient = goldens.value_and_gradient(make(0.1, 1e4), labels, cosines)
    expected = ON_COSINES[make](labels, cosines, 0.1, 1e4).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_probabilities_and_labels():
    labels, cosines = cosines_of()
    logits = 1e3 * cosines
    values, gradient = goldens.value_and_gradient(
        SoftmaxLoss(reduction=None), labels, logits
    )
    np.testing.assert_allclose(
        values, oracles.softmax(labels, logits), rtol=1e-5, atol=1e-6
    )
    assert np.isfinite(gradient).all()
    certain = np.eye(5)[labels]
    np.testing.assert_allclose(
        SoftmaxLoss(reduction=None)(certain, logits), values, rtol=1e-5, atol=1e-6
    )
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), size=8)
    np.testing.assert_allclose(
        SoftmaxLoss(reduction=None, dtype="float64")(probabilities, cosines),
        oracles.softmax(probabilities, cosines),
        rtol=1e-9,
    )


@pytest.mark.parametrize("label_smoothing", [0.1, 1.0])
def test_smoothed_labels_are_those_of_keras(label_smoothing):
    labels, cosines = cosines_of()
    options = {"label_smoothing": label_smoothing, "reduction": None}
    ours = {
        CosFaceLoss(0.0, 4.0, **options, dtype="float64"): 4 * cosines,
        ProxyNCALoss(2.0, **options, dtype="float64"): 4 * cosines,
        SoftmaxLoss(**options, dtype="float64"): cosines,
    }
    keras_loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, **options, dtype="float64"
    )
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), size=8)
    for loss, logits in ours.items():
        values, gradient = goldens.value_and_gradient(loss, labels, cosines)
        one_hot = np.eye(5)[labels]
        expected = goldens.value_and_gradient(keras_loss, one_hot, logits)
        np.testing.assert_allclose(values, expected[0], rtol=1e-9)
        factor = 1 if isinstance(loss, SoftmaxLoss) else 4
        np.testing.assert_allclose(gradient, factor * expected[1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        loss(probabilities, cosines), keras_loss(probabilities, cosines), rtol=1e-9
    )


EVERY_LOSS = pytest.mark.parametrize("make", [*ON_COSINES, SoftmaxLoss])


@EVERY_LOSS
@pytest.mark.parametrize("kind", ["int8", "uint64", "float32", "column"])
def test_labels_may_be_any_numbers(make, kind):
    labels, cosines = cosines_of()
    given = labels[:, None] if kind == "column" else labels.astype(kind)
    np.testing.assert_array_equal(make()(given, cosines), make()(labels, cosines))


BAD_LABELS = {
    "missing": None,
    "too few": [0] * 7,
    "two columns": [[0, 0]] * 8,
    "strings": ["0"] * 8,
    "too large": [0, 5] * 4,
    "negative": [0, -1] * 4,
    "fractions": [0.5] * 8,
}


@EVERY_LOSS
@pytest.mark.parametrize("labels", BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_bad_labels_are_refused(make, labels):
    _, cosines = cosines_of()
    with pytest.raises(ValueError, match="labels"):
        make()(labels, cosines)


@EVERY_LOSS
def test_a_label_too_large_shows_in_a_graph(make):
    _, cosines = cosines_of()
    labels = tf.constant([0, 5] * 4)
    with goldens.kernels(compiled=True):
        with pytest.raises(tf.errors.InvalidArgumentError, match="labels"):
            tf.function(make())(labels, cosines)
        value = tf.function(make(), jit_compile=True)(labels, cosines)
    assert np.isnan(value)  # XLA has no checks


@on_cosines
def test_logits_are_refused(make, oracle):
    labels, cosines = cosines_of()
    with pytest.raises(ValueError, match="cosines"):
        make()(labels, 2 * cosines)
    graph = pytest.raises(tf.errors.InvalidArgumentError, match="cosines")
    with goldens.kernels(compiled=True), graph:
        tf.function(make())(labels, 2 * cosines)


@EVERY_LOSS
@pytest.mark.parametrize("shape", [[8], [8, 2, 5]])
def test_embeddings_in_columns_are_refused(make, shape):
    with pytest.raises(ValueError, match=r"\[B, C\]"):
        make()(np.zeros(8, int), np.zeros(shape))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ArcFaceLoss(margin=28.6), "`margin`"),  # degrees
        (lambda: ArcFaceLoss(margin=-0.1), "`margin`"),
        (lambda: ArcFaceLoss(scale=0), "`scale`"),
        (lambda: CosFaceLoss(margin="0.35"), "`margin`"),
        (lambda: CosFaceLoss(scale=float("nan")), "`scale`"),
        (lambda: NormalizedSoftmaxLoss(temperature=0), "`temperature`"),
        (lambda: ProxyNCALoss(softmax_scale=-1), "`softmax_scale`"),
        (lambda: ArcFaceLoss(label_smoothing=1.5), "`label_smoothing`"),
        (lambda: SoftmaxLoss(label_smoothing=-0.1), "`label_smoothing`"),
        (lambda: ProxyAnchorLoss(margin=float("inf")), "`margin`"),
        (lambda: ProxyAnchorLoss(alpha=0), "`alpha`"),
        (lambda: CombinedMarginLoss(angle_factor=0), "`angle_factor`"),
        (lambda: CombinedMarginLoss(angle_margin=28.6), "`angle_margin`"),
        (lambda: CombinedMarginLoss(cosine_margin=-0.1), "`cosine_margin`"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_elastic_margins_are_drawn_from_a_normal_distribution():
    labels = np.random.default_rng(0).integers(50, size=20_000)

    def draw(labels, seed=0):
        return margins.normals(tf.constant(labels), seed=seed, dtype=tf.float32).numpy()

    drawn = draw(labels)
    assert abs(drawn.mean()) < 0.03 and abs(drawn.std() - 1) < 0.03
    np.testing.assert_allclose((abs(drawn) < [[1], [2]]).mean(axis=1), [0.683, 0.954], 0.02)
    np.testing.assert_array_equal(draw(labels), drawn)
    for other in (draw(labels, seed=1), draw(labels[::-1])):
        assert abs(np.corrcoef(other, drawn)[0, 1]) < 0.03
    with goldens.kernels(compiled=True):  # as in XLA
        np.testing.assert_allclose(draw(labels), drawn, rtol=1e-4, atol=1e-5)


def test_elastic_margins_are_larger_for_harder_rows():
    labels, cosines = np.zeros(8, int), np.linspace(-0.5, 0.8, 8)[:, None] * [1.0, 0.0]
    options = {"std": 0.2, "scale": 1.0, "reduction": None, "dtype": "float64"}
    values = ElasticFaceLoss(by_hardness=True, **options)(labels, cosines)
    own = -np.log(np.expm1(values))  # of two classes, the other with a cosine of 0
    found = np.arccos(own) - np.arccos(cosines[:, 0])
    assert (np.diff(found) <= 1e-9).all() and found[0] > found[-1] + 0.1
