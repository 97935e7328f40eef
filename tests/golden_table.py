"""The peers' losses in tests/golden, and which of ours has their values and gradients."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import goldens
import keras
import numpy as np
import tensorflow as tf

from tfembloss import distances, layers, losses, miners

SBERT, PML = "sentence_transformers", "pytorch_metric_learning"


class Golden(NamedTuple):
    """One loss of a peer.

    Args:
        library: of which it is.
        name: the peer's, with its options, as in the file.
        make: ours: the class with its options bound, or a function of a case's arrays.
        inputs: function of a case's arrays: y_true, y_pred and the gradient of y_pred.
        head: function of a case's arrays and a dtype: a layer from y_pred to what the loss
            takes, and the gradients of its weights; or None.
        runs: `(case, dtype, rtol, compiled)`.
        weights: function of a case's arrays: sample weights; or None.
    """

    library: str
    name: str
    make: Callable
    inputs: Callable
    head: Callable | None = None
    runs: tuple | None = None
    weights: Callable | None = None

    @property
    def id(self):
        """The class's name, as those of `cases.CASES` begin, and the peer's."""
        of = getattr(self.make, "func", self.make).__name__
        return self.name if self.name.startswith(of) else f"{of}-{self.name}"

    def loss(self, golden, dtype):
        """Our loss of a case's arrays."""
        if isinstance(self.make, _FromArrays):
            return self.make(golden, dtype)
        return self.make(dtype=dtype)


class _FromArrays(NamedTuple):
    """A loss with options that are in a case's arrays."""

    func: type
    make: Callable

    def __call__(self, golden, dtype):
        return self.make(golden, dtype)


def _columns(golden):
    y_pred, gradient = goldens.columns(golden)
    return golden.get("labels"), y_pred, gradient  # AnglELoss's triplets have none


def _without_targets(golden):
    return (None, *goldens.columns(golden))


def _guided(golden):
    y_pred, gradient = goldens.columns(golden)
    guides = [golden[f"guide_{i}"] for i in range(y_pred.shape[1])]
    return np.stack(guides, axis=1), y_pred, gradient


def _first_column(golden):
    y_true, y_pred, gradient = _columns(golden)
    return y_true, y_pred[:, 0], gradient[:, 0]


def _first_column_with_ids(golden):
    y_true, y_pred, gradient = _first_column(golden)
    return y_true.reshape(-1).astype("int64"), y_pred, gradient


def _logits(golden):
    targets = golden["input_ids"][:, 1:]  # there the first token is given
    return targets, golden["logits"], golden["grad_logits"]


def _layers(golden):
    parts = [
        np.stack([golden[f"{kind}_{column}"] for column in range(2)])  # [2, L + 1, B, D]
        for kind in ("layers", "grad_layers")
    ]
    return (None, *(np.moveaxis(part, 2, 0) for part in parts))


def _rows(golden):
    return golden["labels"], golden["embeddings"], golden["grad"]


def _views(golden):
    parts = ("embeddings", "ref_emb"), ("grad", "ref_grad")
    return (None, *(np.stack([golden[name] for name in part], axis=1) for part in parts))


def _cosine_head(golden, dtype, regularizer=None):
    (name,) = {"W", "proxies", "fc"} & {key.removeprefix("pgrad_") for key in golden}
    centers, of_centers = golden[f"param_{name}"], golden[f"pgrad_{name}"]
    if name != "proxies":
        centers, of_centers = centers.T, of_centers.T
    config = golden["config"]
    sub_centers = config.get("sub_centers", config.get("centers_per_class", 1))
    temperature = 0.1 if name == "fc" else None
    head = layers.CosineHead(10, sub_centers, regularizer, temperature, dtype=dtype)
    head.build(golden["embeddings"].shape)
    head.set_weights([centers])
    return head, [of_centers]


def _products_with_directions(golden, dtype):
    """The peer takes products with centers that it has brought to length 0.9999999."""
    centers = golden["param_weight"]
    head = keras.Sequential(
        [
            keras.layers.UnitNormalization(dtype=dtype),
            keras.layers.Dense(centers.shape[1], use_bias=False, dtype=dtype),
        ]
    )
    head.build(golden["embeddings"].shape)
    head.set_weights([centers])
    return head, [golden["pgrad_weight"]]


def _dense_weights(golden):
    return ([golden[f"{k}w_kernel"].T, golden[f"{k}w_bias"]] for k in ("", "grad_"))


def _pair_head(golden, dtype, **options):
    head = layers.PairHead(3, **options, dtype=dtype)
    head.build(goldens.columns(golden)[0].shape)
    weights, of_weights = _dense_weights(golden)
    head.set_weights(weights)
    return head, of_weights


def _projection(golden, dtype):
    projection = keras.layers.Dense(len(golden["w_bias"]), dtype=dtype)
    projection.build(golden["emb_0"].shape)
    weights, of_weights = _dense_weights(golden)
    projection.set_weights(weights)
    return projection, of_weights


def peers_distance(order):
    """torch's pairwise_distance: 1e-6 is added to every component of the difference."""

    def distance(a, b):
        return tf.norm(a - b + 1e-6, ord=order, axis=-1)

    return distance


GOLDENS = []


def _sbert(loss, variants, inputs=_columns, **more):
    """A loss of sentence-transformers by the suffix of its name: our options."""
    GOLDENS.extend(
        Golden(
            SBERT,
            f"{loss.__name__}{suffix}",
            functools.partial(loss, **options),
            inputs,
            **more,
        )
        for suffix, options in variants.items()
    )


def _pml(loss, variants, head=None, weights=None):
    """A loss of pytorch-metric-learning by its name there: our options."""
    GOLDENS.extend(
        Golden(PML, name, functools.partial(loss, **options), _rows, head, weights=weights)
        for name, options in variants.items()
    )


def squares_of_directions(a, b):
    """The peer's euclidean distance with the power 2: of rows of length 1."""
    rows = map(distances.l2_normalize, (a, b))
    return distances.squared_euclidean.rowwise(*rows)


def _also(loss, name, options, inputs=_without_targets):
    """Another name of the peer's for one of its losses."""
    GOLDENS.append(Golden(SBERT, name, functools.partial(loss, **options), inputs))


COSINE, SQUARED = {"distance": "cosine"}, {"distance": "squared_euclidean"}
EUCLIDEAN, MANHATTAN = {"distance": peers_distance(2)}, {"distance": peers_distance(1)}
SUM = {"reduction": "sum"}

BOTH_WAYS = {"directions": ("query_to_doc", "doc_to_query")}
ALL_DIRECTIONS = {
    "directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
}
RANKING = {
    "": {},
    "-dot": {"similarity": "dot", "scale": 1.0},
    "-s50": {"scale": 50.0},
    "-sym": {"symmetric": True},
    "-symjoint": BOTH_WAYS,
    "-q2q": {"directions": ("query_to_doc", "query_to_query")},
    "-d2d": {"directions": ("query_to_doc", "doc_to_doc")},
    "-gte": ALL_DIRECTIONS,
    "-hardinbatch": {"hardness": "in_batch", "hardness_strength": 9.0},
    "-hardneg": {"hardness": "hard", "hardness_strength": 5.0},
    "-hardall": {"hardness": "all", "hardness_strength": 5.0},
    "-hardallgte": {"hardness": "all", "hardness_strength": 5.0, **ALL_DIRECTIONS},
}
for kind in ("", "-triplet", "-ntuple"):
    variants = {f"{kind}{suffix}": options for suffix, options in RANKING.items()}
    _sbert(losses.MultipleNegativesRankingLoss, variants, _without_targets)
    for suffix in ("", "-sym", "-gte", "-hardall"):
        name = f"CachedMultipleNegativesRankingLoss{kind}{suffix}"
        options = {**RANKING[suffix], "tile_size": 4}
        _also(losses.MultipleNegativesRankingLoss, name, options)
for kind in ("", "Cached"):
    name = f"{kind}MultipleNegativesSymmetricRankingLoss"
    _also(losses.MultipleNegativesRankingLoss, name, {"symmetric": True})
for tile_size in (None, 4):
    _sbert(
        losses.MegaBatchMarginLoss,
        {
            f"{kind}{suffix}": {**options, "tile_size": tile_size}
            for kind in ("", "-full")
            for suffix, options in {
                "": {},
                "-p0.9n0.0": {"positive_margin": 0.9, "negative_margin": 0.0},
            }.items()
        },
        _without_targets,
    )
for loss in (
    losses.BatchAllTripletLoss,
    losses.BatchHardTripletLoss,
    losses.BatchSemiHardTripletLoss,
):
    _sbert(
        loss,
        {
            "": {},
            "-m0.2": {"margin": 0.2},
            "-sqeuclidean": SQUARED,
            "-sqeuclidean-m0.2": {**SQUARED, "margin": 0.2},
            "-cosine-m0.2": {**COSINE, "margin": 0.2},
        },
        _first_column_with_ids,
    )
_sbert(
    losses.BatchHardSoftMarginTripletLoss,
    {"": {}, "-sqeuclidean": SQUARED, "-cosine": COSINE},
    _first_column_with_ids,
)
_sbert(
    losses.TripletLoss,
    {
        "": {},
        "-m0.2": {"margin": 0.2},
        "-cosine-m0.5": {**COSINE, "margin": 0.5},
        "-manhattan": {"distance": "manhattan"},
    },
    _without_targets,
)
_sbert(losses.CosineSimilarityLoss, {"": {}})
_sbert(losses.CoSENTLoss, {"": {}, "-s50": {"scale": 50.0}})
_sbert(losses.AnglELoss, {"": {}, "-s50": {"scale": 50.0}, "-triplet": {}, "-ntuple": {}})
_sbert(
    losses.ContrastiveLoss,
    {
        "": {},
        "-sum": SUM,
        "-soft": {},
        "-m1.2": {"margin": 1.2},
        "-m1.2-sum": {"margin": 1.2, **SUM},
        "-euclidean": EUCLIDEAN,
        "-euclidean-sum": {**EUCLIDEAN, **SUM},
        "-euclidean-m6.0": {**EUCLIDEAN, "margin": 6.0},
        "-euclidean-m6.0-sum": {**EUCLIDEAN, "margin": 6.0, **SUM},
        "-manhattan": MANHATTAN,
        "-manhattan-sum": {**MANHATTAN, **SUM},
        "-manhattan-m40.0": {**MANHATTAN, "margin": 40.0},
        "-manhattan-m40.0-sum": {**MANHATTAN, "margin": 40.0, **SUM},
    },
)
_sbert(
    losses.OnlineContrastiveLoss,
    {
        "": {},
        "-m1.2": {"margin": 1.2},
        "-euclidean": EUCLIDEAN,
        "-euclidean-m6.0": {**EUCLIDEAN, "margin": 6.0},
        "-manhattan": MANHATTAN,
        "-manhattan-m40.0": {**MANHATTAN, "margin": 40.0},
        "-allpos": {},
        "-allneg": {},
    },
)
_sbert(losses.ContrastiveTensionLoss, {"": {}})
GOLDENS.append(
    Golden(
        SBERT,
        "ContrastiveTensionLossInBatchNegatives",
        _FromArrays(
            losses.ContrastiveTensionLossInBatchNegatives,
            lambda golden, dtype: losses.ContrastiveTensionLossInBatchNegatives(
                scale=float(np.exp(golden["w_logit_scale"])), dtype=dtype
            ),
        ),
        _without_targets,
    )
)
for loss, variants in {
    losses.MSELoss: {"": {}},
    losses.EmbedDistillLoss: {
        "": {},
        "-l2": {"distance": "l2"},
        "-mse": {"distance": "mse"},
    },
}.items():
    for suffix, options in variants.items():
        _sbert(loss, {suffix: options, f"{suffix}-broadcast": options})
        _sbert(loss, {f"{suffix}-1col": options}, _first_column)
        projected = {f"{suffix}-projection": options}
        _sbert(loss, projected, _first_column, head=_projection)
_sbert(
    losses.DistillKLDivLoss,
    {
        "": {},
        "-t2": {"temperature": 2.0},
        "-cosine": {"similarity": "cosine", "temperature": 0.1},
        "-ts": {"student_temperature": 0.5, "teacher_temperature": 2.0},
    },
)
_sbert(
    losses.MarginMSELoss,
    {
        f"{targets}{suffix}": options
        for targets in ("", "-scores", "-ntuple", "-ntuplescores")
        for suffix, options in (("", {}), ("-cosine", {"similarity": "cosine"}))
    },
)
GIST = {
    "": {},
    "-t0.05": {"temperature": 0.05},
    "-abs0.1": {"temperature": 0.05, "margin": 0.1},
    "-rel0.05": {"temperature": 0.05, "margin": 0.05, "margin_strategy": "relative"},
    "-apo": {
        "temperature": 0.05,
        "contrast_anchors": False,
        "contrast_positives": False,
    },
}
GIST = {f"{kind}{suffix}": GIST[suffix] for kind in ("", "-triplet") for suffix in GIST}
_sbert(losses.GISTEmbedLoss, GIST, _guided)
for suffix, options in GIST.items():
    _also(losses.GISTEmbedLoss, f"CachedGISTEmbedLoss{suffix}", options, _guided)
for suffix, options in {
    "": {},
    "-probs": {},
    "-mult": {"product": True},
    "-diffonly": {"embeddings": False},
    "-reponly": {"difference": False},
}.items():
    head = functools.partial(_pair_head, **options)
    _sbert(losses.SoftmaxLoss, {suffix: {}}, head=head)
for suffix, loss, inputs in (
    ("", losses.MultipleNegativesRankingLoss, _columns),
    ("-weights", losses.MultipleNegativesRankingLoss, _columns),
    ("-cachedmnrl", losses.MultipleNegativesRankingLoss, _columns),
    ("-cosent", losses.CoSENTLoss, _columns),
    ("-mse", losses.MSELoss, _first_column),
    ("-triplet", functools.partial(losses.TripletLoss, margin=1.0), _columns),
):

    def matryoshka(golden, dtype, loss=loss):
        config = golden["config"]
        return losses.MatryoshkaLoss(loss(dtype=dtype), config["dims"], config["weights"])

    GOLDENS.append(
        Golden(
            SBERT,
            f"MatryoshkaLoss{suffix}",
            _FromArrays(losses.MatryoshkaLoss, matryoshka),
            inputs,
        )
    )
LAYERS = {
    "": {},
    "-linear": {"layer_weighting": "linear"},
    "-log": {"layer_weighting": "log"},
    "-nokl": {"kl_temperature": 0.0},
    "-weights": {
        "last_layer_weight": 2.0,
        "prior_layers_weight": 0.5,
        "kl_div_weight": 0.25,
        "kl_temperature": 1.0,
    },
}


def _adaptive_layer(golden, dtype, **options):
    inner = losses.MultipleNegativesRankingLoss(dtype=dtype)
    return losses.AdaptiveLayerLoss(inner, None, **options)


def _matryoshka_2d(golden, dtype):
    inner = losses.MultipleNegativesRankingLoss(dtype=dtype)
    dims = golden["config"]["dims"]
    return losses.Matryoshka2dLoss(
        inner, dims, num_layers_per_step=None, num_dims_per_step=None
    )


for suffix, options in LAYERS.items():
    make = functools.partial(_adaptive_layer, **options)
    make = _FromArrays(losses.AdaptiveLayerLoss, make)
    GOLDENS.append(Golden(SBERT, f"AdaptiveLayerLoss{suffix}", make, _layers))
GOLDENS.append(
    Golden(
        SBERT,
        "Matryoshka2dLoss",
        _FromArrays(losses.Matryoshka2dLoss, _matryoshka_2d),
        _layers,
    )
)
GOLDENS.append(
    Golden(
        SBERT,
        "DenoisingAutoEncoderLoss",
        _FromArrays(
            losses.DenoisingAutoEncoderLoss,
            lambda golden, dtype: losses.DenoisingAutoEncoderLoss(
                golden["config"]["pad_id"], dtype=dtype
            ),
        ),
        _logits,
    )
)

_sbert(
    losses.GlobalOrthogonalRegularizationLoss,
    {
        "": {},
        "-dot": {"similarity": "dot"},
        "-sum": {"mean_weight": 0.0, "aggregation": "sum"},
    },
    _without_targets,
)
_sbert(losses.FlopsLoss, {"": {}, "-threshold": {"threshold": 1}}, _without_targets)

# Of cross-encoders: `table` has the scores that the peer's stub of a model gives.


def _ce(make, name, inputs, rtol=1e-9, **more):
    """A loss of cross-encoders; some are computed in float32 there."""
    runs = tuple(
        (case, dtype, max(rtol, exact), compiled)
        for _, case, dtype, exact, compiled in goldens.runs([f"CE-{name}"])
    )
    GOLDENS.append(Golden(SBERT, f"CE-{name}", make, inputs, runs=runs, **more))


def _table(golden):
    return golden["labels"], golden["table"], golden["grad_table"]


def _of_pairs(golden, num_columns=1, kinds=("table", "grad_table")):
    """Scores of each row's own pairs, `[B, n]`; the first row's column j is j * B."""
    rows = np.arange(len(golden["table"]))[:, None]
    own = rows + len(rows) * np.arange(num_columns)
    return [golden[kind][rows, own] for kind in kinds]


def _pairs(golden):
    return golden["labels"][:, None], *_of_pairs(golden)


def _margins(golden):
    return golden["labels"], *_of_pairs(golden, 3)


def _logits_of_pairs(golden):
    return golden["labels"], *(x[:, 0] for x in _of_pairs(golden))


def _positive_first(golden):
    """All pairs of the batch's positives and negatives, each row's own positive first."""
    size = len(golden["table"])
    order = [[i, *(j for j in range(2 * size) if j != i)] for i in range(size)]
    kinds = (golden[kind] for kind in ("table", "grad_table"))
    return (None, *(np.take_along_axis(x, np.array(order), axis=1) for x in kinds))


for name, loss, options in (
    ("ListNetLoss", losses.ListNetLoss, {}),
    ("ListMLELoss", losses.ListMLELoss, {}),
    ("ListMLELoss-sorted", losses.ListMLELoss, {"respect_input_order": False}),
    ("PListMLELoss", losses.PositionAwareListMLELoss, {}),
    ("LambdaLoss", losses.LambdaLoss, {}),
    ("LambdaLoss-k2", losses.LambdaLoss, {"k": 2}),
    ("LambdaLoss-ndcg1", losses.LambdaLoss, {"weighting_scheme": "ndcg_loss1"}),
    ("LambdaLoss-ndcg2", losses.LambdaLoss, {"weighting_scheme": "ndcg_loss2"}),
    ("LambdaLoss-lambdarank", losses.LambdaLoss, {"weighting_scheme": "lambda_rank"}),
    ("LambdaLoss-natural", losses.LambdaLoss, {"reduction_log": "natural"}),
    ("RankNetLoss", losses.RankNetLoss, {}),
    ("RankNetLoss-k2", losses.RankNetLoss, {"k": 2}),
    ("ADRMSELoss", losses.ADRMSELoss, {}),
):
    _ce(functools.partial(loss, **options), name, _table, rtol=1e-6)
for prefix in ("", "Cached"):
    _ce(
        losses.CrossEncoderMultipleNegativesRankingLoss,
        f"{prefix}MultipleNegativesRankingLoss",
        _positive_first,
    )
_ce(losses.MarginMSELoss, "MarginMSELoss", _margins)
# Keras's own losses are these.
_ce(keras.losses.MeanSquaredError, "MSELoss", _pairs)
_ce(
    functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True),
    "CrossEntropyLoss",
    _logits_of_pairs,
)
BINARY = functools.partial(keras.losses.BinaryCrossentropy, from_logits=True)
_ce(BINARY, "BinaryCrossEntropyLoss", _pairs, rtol=1e-6)
_ce(
    BINARY,
    "BinaryCrossEntropyLoss-pw4",
    _pairs,
    rtol=1e-6,
    weights=lambda golden: 1 + 3 * golden["labels"],
)

SEMIHARD = miners.TripletMarginMiner(type_of_triplets="semihard")
ALL_TRIPLETS = miners.TripletMarginMiner()
HARD = miners.TripletMarginMiner(type_of_triplets="hard")


def _easy_semihard(distance):
    return miners.BatchEasyHardMiner("easy", "semihard", distance=distance)


_pml(
    losses.TripletMarginLoss,
    {
        "loss_triplet": {},
        "loss_triplet_m02": {"margin": 0.2},
        "loss_triplet_cos": {"margin": 0.2, **COSINE},
        "loss_triplet_raw": {"margin": 1.0, "distance": "euclidean"},
        "loss_triplet_l1raw": {"margin": 1.0, "distance": "manhattan"},
        "loss_triplet_swap": {"margin": 0.2, "swap": True},
        "loss_triplet_cos_swap": {"margin": 0.2, "swap": True, **COSINE},
        "loss_triplet_smooth": {"margin": 0.2, "smooth": True},
        "combo_triplet__tmm_semihard": {"miner": SEMIHARD},
        "combo_triplet_m02__tmm_all": {"margin": 0.2, "miner": ALL_TRIPLETS},
        "combo_triplet_m02__tmm_hard": {"margin": 0.2, "miner": HARD},
        "combo_triplet_m02__batchhard": {"margin": 0.2, "miner": miners.BatchHardMiner()},
        "combo_triplet_smooth__batchhard": {
            "margin": 0.2,
            "smooth": True,
            "miner": miners.BatchHardMiner(),
        },
        "combo_triplet_m02__angular20": {"margin": 0.2, "miner": miners.AngularMiner()},
        "combo_triplet_m02__beh_easy_semihard": {
            "margin": 0.2,
            "miner": _easy_semihard("normalized_euclidean"),
        },
        "combo_triplet_cos__beh_easy_semihard_cos": {
            "margin": 0.2,
            **COSINE,
            "miner": _easy_semihard("cosine"),
        },
    },
)
OF_PAIRS = {"miner": miners.MultiSimilarityMiner()}
L2 = {"distance": "normalized_euclidean"}
_pml(
    losses.NTXentLoss,
    {
        "loss_ntxent": {},
        "loss_ntxent_t05": {"temperature": 0.5},
        "loss_ntxent_l2": {"temperature": 0.5, **L2},
        "combo_ntxent__ms": OF_PAIRS,
        "combo_ntxent__tmm_semihard": {"miner": SEMIHARD},
    },
)
_pml(losses.SupConLoss, {"loss_supcon": {}, "combo_supcon__ms": OF_PAIRS})
_pml(
    losses.MultiSimilarityLoss,
    {
        "loss_multisim": {},
        "loss_multisim_b40": {"beta": 40.0, "base": 1.0},
        "loss_multisim_l2": L2,
        "combo_multisim__ms": OF_PAIRS,
    },
)
_pml(
    losses.CircleLoss,
    {
        "loss_circle": {},
        "loss_circle_reid": {"m": 0.25, "gamma": 128.0},
        "combo_circle__ms": OF_PAIRS,
    },
)
_pml(
    losses.LiftedStructureLoss,
    {
        "loss_lifted": {},
        "loss_lifted_raw": {"distance": "euclidean"},
        "combo_lifted__tmm_all": {"miner": ALL_TRIPLETS},
    },
)
_pml(
    losses.LabelContrastiveLoss,
    {
        "loss_contrastive": {},
        "loss_contrastive_mean": {"mean_over": "all"},
        "loss_contrastive_peranchor": {"mean_over": "anchors"},
        "loss_contrastive_l2sq": {"distance": squares_of_directions},
        "loss_contrastive_cos": {"pos_margin": 0.1, "neg_margin": 0.9, **COSINE},
        "combo_contrastive__hdc": {"miner": miners.HDCMiner()},
        "combo_contrastive__pairmargin_l2b": {"miner": miners.PairMarginMiner(1.2, 1.4)},
    },
)
GOLDENS.append(Golden(PML, "loss_vicreg", losses.VICRegLoss, _views))
for name, loss in {
    "multisim": losses.MultiSimilarityLoss,
    "ntxent": losses.NTXentLoss,
    "supcon": losses.SupConLoss,
    "triplet_m02": functools.partial(losses.TripletMarginLoss, margin=0.2),
}.items():
    for suffix, symmetric in {"sym": True, "asym": False}.items():

        def of_views(golden, dtype, loss=loss, symmetric=symmetric):
            return losses.SelfSupervisedLoss(loss(dtype=dtype), symmetric)

        make = _FromArrays(losses.SelfSupervisedLoss, of_views)
        GOLDENS.append(Golden(PML, f"selfsup_{name}_{suffix}", make, _views))
_pml(losses.FastAPLoss, {"loss_fastap": {}})
_pml(
    losses.PNPLoss,
    {
        f"loss_pnp_{variant}": {"variant": variant, "temperature": 0.1}
        for variant in ("Ds", "Dq", "Iu", "Ib", "O")
    },
)
GOLDENS.append(
    Golden(
        PML,
        "loss_smoothap_3x3",
        functools.partial(losses.SmoothAPLoss, temperature=0.1),
        _rows,
        runs=((goldens.ROWS[0], *goldens.FLOAT64, False),),
    )
)
_pml(losses.SignalToNoiseRatioContrastiveLoss, {"loss_snr": {}})
_pml(losses.ThresholdConsistentMarginLoss, {"loss_tcm": {}})
_pml(losses.IntraPairVarianceLoss, {"loss_intrapair": {}})
_pml(losses.NCALoss, {"loss_nca": {}})
_pml(losses.HistogramLoss, {"loss_histogram": {"num_bins": 25}})
_pml(losses.TupletMarginLoss, {"loss_tuplet": {"margin": math.radians(5.73)}})
_pml(losses.RankedListLoss, {"loss_rankedlist": {}})
_pml(losses.GeneralizedLiftedStructureLoss, {"loss_genlifted": {}})
_pml(losses.NPairsLoss, {"loss_npairs": {}, "loss_npairs_raw": {"distance": "dot"}})
_pml(
    losses.MarginLoss,
    {"loss_margin": {}, "combo_margin__tmm_all": {"miner": ALL_TRIPLETS}},
)


def _margin_head(golden, dtype):
    betas = golden["param_beta"]
    head = layers.MarginHead(len(betas), dtype=dtype)
    head.build(golden["embeddings"].shape)
    head.set_weights([betas])
    return head, [golden["pgrad_beta"]]


_pml(
    losses.MarginLoss,
    {
        "loss_margin_learnbeta": {"nu": 0.1, "num_betas": 10},
        "loss_margin_learnbeta1": {"nu": 0.1, "num_betas": 1},
    },
    _margin_head,
)
_pml(
    losses.ArcFaceLoss,
    {
        "loss_arcface": {},
        "loss_arcface_m05s30": {"margin": math.radians(57.3), "scale": 30.0},
        "loss_subcenter": {},
    },
    _cosine_head,
)
_pml(losses.CosFaceLoss, {"loss_cosface": {}}, _cosine_head)
_pml(losses.NormalizedSoftmaxLoss, {"loss_normsoftmax": {}}, _cosine_head)


def _numbered_rows(golden):
    """A class's number among the classes, which the peer takes for that of a row."""
    numbers = np.unique(golden["labels"], return_inverse=True)[1]
    return numbers, golden["embeddings"], golden["grad"]


def _cosines_of_rows(golden, dtype):
    def cosines(rows):
        rows = distances.l2_normalize(rows)
        return tf.matmul(rows, rows, transpose_b=True)

    return keras.layers.Lambda(cosines, dtype=dtype), []


GOLDENS.append(
    Golden(
        PML,
        "loss_instance",
        functools.partial(losses.NormalizedSoftmaxLoss, temperature=1 / 16),
        _numbered_rows,
        _cosines_of_rows,
    )
)
_pml(
    losses.ProxyNCALoss,
    {"loss_proxynca": {}, "loss_proxynca_s9": {"softmax_scale": 9.0}},
    _cosine_head,
)
_pml(losses.ProxyAnchorLoss, {"loss_proxyanchor": {}}, _cosine_head)
_pml(losses.P2SGradLoss, {"loss_p2sgrad": {}}, _products_with_directions)
_pml(losses.SphereFaceLoss, {"loss_sphereface": {}}, _cosine_head)
_pml(losses.LargeMarginSoftmaxLoss, {"loss_largemargin": {}}, _cosine_head)


def _regularized(loss, name, regularizer):
    _pml(loss, {name: {}}, functools.partial(_cosine_head, regularizer=regularizer))


def _half_of_zero_mean(centers):
    return 0.5 * losses.ZeroMeanRegularizationLoss(dtype=centers.dtype)(None, centers)


_pml(losses.SoftTripleLoss, {"loss_softtriple": {}}, _cosine_head)
_regularized(
    losses.SoftTripleLoss,
    "loss_softtriple_sparse",
    layers.SparseCentersRegularizer(3, weight=0.2),
)
_regularized(
    losses.ArcFaceLoss,
    "loss_arcface_centerinv",
    layers.CenterInvariantRegularizer(weight=0.01),
)
_regularized(losses.CosFaceLoss, "loss_cosface_zeromean", _half_of_zero_mean)


@dataclasses.dataclass(frozen=True)
class ViolationsBetween(miners.TripletMarginMiner):
    """The peer's ThresholdReducer: violations of the margin between two numbers."""

    low: float = 0.1
    high: float = 0.3

    @property
    def gaps(self):
        return self.margin - self.high, self.margin - self.low


def _number_of_triplets(golden):
    same = golden["labels"][:, None] == golden["labels"]
    return (same.sum(axis=1) - 1) @ (~same).sum(axis=1) * np.ones(len(same))


def _part_with_positives(golden):
    same = golden["labels"][:, None] == golden["labels"]
    return (same.sum(axis=1) > 1).mean() * np.ones(len(same))


def _class_weights(golden):
    return np.linspace(0.5, 2.0, 10)[golden["labels"]]


TRIPLETS = {"margin": 0.2, "mean_over": "all"}
_pml(losses.TripletMarginLoss, {"loss_triplet_mean": TRIPLETS})
_pml(losses.TripletMarginLoss, {"loss_triplet_sum": TRIPLETS}, weights=_number_of_triplets)
_pml(losses.TripletMarginLoss, {"loss_triplet_clsw": TRIPLETS}, weights=_class_weights)
_pml(
    losses.TripletMarginLoss,
    {"loss_triplet_thr": {"margin": 0.2, "miner": ViolationsBetween()}},
)
_pml(
    losses.SupConLoss,
    {"loss_supcon_mean": {"temperature": 0.07}},
    weights=_part_with_positives,
)


def _mined_weights(golden, kinds=("idx0", "idx1", "idx2", "idx3")):
    """How often a row is in what was mined, as a part of the most: the peer's weights."""
    mined = np.concatenate([golden[kind] for kind in kinds if kind in golden])
    counts = np.bincount(mined, minlength=len(golden["labels"]))
    return counts / counts.max()


for loss, name, weights in (
    (losses.ArcFaceLoss, "combo_arcface__ms", _mined_weights),
    (losses.CosFaceLoss, "combo_cosface__tmm_all", _mined_weights),
    (losses.NormalizedSoftmaxLoss, "combo_normsoftmax__ms", _mined_weights),
    (
        losses.ProxyNCALoss,
        "combo_proxynca__ms",
        functools.partial(_mined_weights, kinds=("idx0", "idx2")),
    ),
):
    _pml(loss, {name: {}}, _cosine_head, weights=weights)
_pml(losses.NCALoss, {"combo_nca__ms": {}}, weights=_mined_weights)
