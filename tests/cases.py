"""Every loss with inputs for it: a new loss joins the contract by its lines in CASES."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import oracles
import tensorflow as tf

from tfembloss import losses, miners
from tfembloss.losses.classification import margins


class Case(NamedTuple):
    """One loss, how to make inputs for it, and what it must give.

    Args:
        make: the loss's class with its options bound.
        oracle: `(y_true, y_pred) -> values [B]` in numpy.
        num_columns: n of y_pred `[B, n, D]`; 0 for `[B, D]`.
        targets: `(rng, num_rows) -> y_true`; None where the loss takes none.
        has_constants: whether the loss's gradient takes parts of the formula as constant;
            the oracle then has an argument `constant`, the embeddings of those parts.
        by_order: why the values depend on the order of the rows, if they do.
    """

    make: Callable
    oracle: Callable
    num_columns: int
    targets: Callable | None = None
    has_constants: bool = False
    by_order: str | None = None

    def inputs(self, num_rows, dim=6, seed=0):
        """y_true and y_pred of so many rows."""
        rng = np.random.default_rng(seed)
        shape = [num_rows, self.num_columns, dim] if self.num_columns else [num_rows, dim]
        y_pred = rng.normal(size=shape)
        y_true = (
            np.zeros([num_rows, 0]) if self.targets is None else self.targets(rng, num_rows)
        )
        return y_true, y_pred


def ids(rng, num_rows):
    """Ids of a third as many classes as rows, above what float32 can tell apart."""
    return 2**24 + rng.integers(max(1, num_rows // 3), size=num_rows)


def labels(rng, num_rows):
    """Of each row some of five labels, or none, multi-hot."""
    return rng.integers(3, size=[num_rows, 5]) // 2


def label_ids(rng, num_rows):
    """Ids of up to four labels of each row, some of them twice, padded with -1."""
    return np.maximum(rng.integers(-4, 5, size=[num_rows, 4]), -1)


def texts(num_columns):
    """Ids of each column's text; some texts occur in several rows and columns."""
    return lambda rng, num_rows: (
        2**53 + rng.integers(2 * num_rows, size=[num_rows, num_columns])
    )


def _ranking(num_columns, targets=None, **options):
    oracle_options = {("similarity_name" if k == "similarity" else k): v
                      for k, v in options.items()}  # fmt: skip

    def oracle(y_true, y_pred, **constant):
        y_true = None if targets is None else y_true
        return oracles.multiple_negatives_ranking(
            y_true, y_pred, **oracle_options, **constant
        )

    make = functools.partial(
        losses.MultipleNegativesRankingLoss,
        exclude_equal_ids=targets is not None,
        **options,
    )
    return Case(make, oracle, num_columns, targets, has_constants="hardness" in options)


def _labels(loss, oracle, has_constants=False, **options):
    """A loss on rows with ids: its oracle takes the same options."""
    return Case(
        functools.partial(loss, **options),
        functools.partial(oracle, **options),
        0,
        ids,
        has_constants,
    )


def _several_labels(loss, oracle, targets=labels, **options):
    """A loss on rows of several labels: its oracle takes the labels as sets."""

    def of_sets(y_true, y_pred):
        if targets is labels:
            sets = [set(np.flatnonzero(row)) for row in y_true]
        else:
            sets = [set(row) - {-1} for row in y_true]
        return oracle(oracles.overlaps(sets), y_pred, **options)

    form = "multi_hot" if targets is labels else "ids"
    make = functools.partial(loss, multi_label=form, **options)
    return Case(make, of_sets, 0, targets)


def _mined(loss, oracle, miner, select, kind, **options):
    """The same on what `select(ids, distances)` or `select(ids, x)` says was mined."""

    def mined_oracle(y_true, y_pred):
        x = y_pred
        if miner.distance and not isinstance(miner, miners.AngularMiner):
            x = oracles.distances(miner.distance, y_pred)
        mined = select(y_true, x)
        from_pairs = isinstance(mined, tuple)
        if kind == "triplets" and from_pairs:
            mined = oracles.triplets_of_pairs(mined)
        elif kind == "pairs" and not from_pairs:
            mined = oracles.pairs_of_triplets(mined)
        return oracle(y_true, y_pred, **{kind: mined}, **options)

    return Case(functools.partial(loss, miner=miner, **options), mined_oracle, 0, ids)


def _triplet(**options):
    def oracle(_, y_pred):
        return oracles.triplet(y_pred, options.get("margin", 5.0), options["distance"])

    return Case(functools.partial(losses.TripletLoss, **options), oracle, 3)


_semihard = functools.partial(
    oracles.mine_triplet_margin, margin=0.3, type_of_triplets="semihard"
)


def _columns(loss, oracle, targets, num_columns=2, **options):
    """A loss on columns with targets: its oracle takes the same options."""
    oracle = functools.partial(oracle, **options)
    return Case(functools.partial(loss, **options), oracle, num_columns, targets)


def _scores(rng, num_rows):
    return rng.integers(5, size=num_rows) / 4  # some of them equal


def binary(rng, num_rows):
    return rng.integers(2, size=num_rows)


def _tokens(rng, num_rows):
    """Of 6, the last ones of a text padding, a text of nothing else among them."""
    tokens = rng.integers(1, 6, size=[num_rows, 4])
    return tokens * (np.arange(4) < rng.integers(5, size=[num_rows, 1]))


def _grades(rng, num_rows):
    """Of lists of 6 documents, some shorter, one empty, one with equal grades alone."""
    grades = rng.integers(4, size=[num_rows, 6]).astype("float64")
    grades[rng.random([num_rows, 6]) < 0.2] = np.nan
    grades[3:4], grades[5:6] = 1, np.nan
    return grades


def _numbers(*shape):
    return lambda rng, num_rows: rng.normal(size=[num_rows, *shape])


def _classes(loss, oracle, has_constants=False, **options):
    """A loss on cosines with class centres: of numbers that it brings between -1 and 1."""

    def scores(x):
        cosines = x / (1 + abs(x))
        if loss.lengths is None:
            return cosines
        of = x[:, :1] if loss.lengths == "embedding" else x  # one of each row, or of all
        return tf.stack([cosines, 1 + abs(of) + 0 * x], axis=1)

    @keras.saving.register_keras_serializable("cases", "-".join([loss.__name__, *options]))
    class OfNumbers(loss):
        def call(self, y_true, y_pred):
            return super().call(y_true, scores(y_pred))

    def of_numbers(y_true, y_pred, **constant):
        constant = {k: np.array(scores(x)) for k, x in constant.items()}
        return oracle(y_true, np.array(scores(y_pred)), **options, **constant)

    def labels(rng, num_rows):
        return rng.integers(6, size=num_rows)

    make = functools.partial(OfNumbers, **options)
    return Case(make, of_numbers, 0, labels, has_constants)


def _elastic_face(labels, cosines, margin=0.5, std=0.05, **options):
    """The oracle with the margins that the loss draws; other tests look at these."""
    drawn = margins.normals(tf.constant(labels, tf.int64), seed=0, dtype=tf.float64)
    return oracles.elastic_face(labels, cosines, margin + std * drawn.numpy(), **options)


def _in_tiles(case, tile_size):
    """The same, a few rows at a time: so it must be tiled at least once."""
    return case._replace(make=functools.partial(case.make, tile_size=tile_size))


def _matryoshka(loss, dtype=None, **options):
    return losses.MatryoshkaLoss(loss(scale=5.0, dtype=dtype), **options)


def _self_supervised(loss, dtype=None, **options):
    return losses.SelfSupervisedLoss(loss(dtype=dtype), **options)


def _weighted_sum(dtype=None, **options):
    parts = {
        "scores": losses.CoSENTLoss(scale=5.0, dtype=dtype),
        "length": losses.LpRegularizationLoss(dtype=dtype),
    }
    return losses.WeightedSum(parts, {"length": 0.5}, dtype=dtype, **options)


DIRECTIONS = ("query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc")
CASES = {
    "MultipleNegativesRankingLoss": _ranking(2),
    "MultipleNegativesRankingLoss-negatives": _in_tiles(_ranking(4), 4),
    "MultipleNegativesRankingLoss-dot": _ranking(2, similarity="dot", scale=1.0),
    "MultipleNegativesRankingLoss-euclidean": _ranking(
        3, similarity="euclidean", scale=2.0
    ),
    "MultipleNegativesRankingLoss-manhattan": _ranking(
        2, similarity="manhattan", scale=1.0
    ),
    "MultipleNegativesRankingLoss-margins": _in_tiles(
        _ranking(3, absolute_margin=0.1, relative_margin=0.5), 4
    ),
    "MultipleNegativesRankingLoss-symmetric": _ranking(2, symmetric=True),
    "MultipleNegativesRankingLoss-symmetric-negatives": _in_tiles(
        _ranking(3, symmetric=True), 1
    ),
    "MultipleNegativesRankingLoss-ids": _ranking(3, targets=ids),
    "MultipleNegativesRankingLoss-symmetric-ids": _in_tiles(
        _ranking(3, symmetric=True, targets=ids), 2
    ),
    "MultipleNegativesRankingLoss-symmetric-texts": _in_tiles(
        _ranking(3, symmetric=True, targets=texts(3)), 2
    ),
    "MultipleNegativesRankingLoss-joint-ids": _in_tiles(
        _ranking(3, targets=ids, directions=DIRECTIONS, scale=5.0), 4
    ),
    "MultipleNegativesRankingLoss-joint-texts": _ranking(
        3, targets=texts(3), directions=DIRECTIONS, similarity="euclidean", scale=1.0
    ),
    "MultipleNegativesRankingLoss-hardness": _ranking(
        3, directions=DIRECTIONS[:3], hardness="all", hardness_strength=4.0, scale=5.0
    ),
    "MegaBatchMarginLoss": _columns(
        losses.MegaBatchMarginLoss, oracles.mega_batch_margin, None
    ),
    "MegaBatchMarginLoss-ids": _in_tiles(
        _columns(
            functools.partial(losses.MegaBatchMarginLoss, exclude_equal_ids=True),
            oracles.mega_batch_margin,
            ids,
            positive_margin=0.9,
            negative_margin=0.0,
        ),
        2,
    ),
    "BatchAllTripletLoss": _labels(
        losses.BatchAllTripletLoss, oracles.triplet_margin, margin=1.0, distance="euclidean"
    ),
    "BatchHardTripletLoss": _labels(
        losses.BatchHardTripletLoss,
        oracles.batch_hard,
        margin=1.0,
        distance="squared_euclidean",
    ),
    "BatchHardSoftMarginTripletLoss": Case(
        losses.BatchHardSoftMarginTripletLoss,
        functools.partial(oracles.batch_hard, soft=True),
        0,
        ids,
    ),
    "BatchSemiHardTripletLoss": _labels(
        losses.BatchSemiHardTripletLoss,
        oracles.batch_semi_hard,
        margin=0.5,
        distance="cosine",
    ),
    "TripletLoss": _triplet(margin=1.0, distance="euclidean"),
    "TripletMarginLoss": _labels(
        losses.TripletMarginLoss, oracles.triplet_margin, margin=0.2
    ),
    "TripletMarginLoss-swap": _labels(
        losses.TripletMarginLoss, oracles.triplet_margin, margin=0.2, swap=True
    ),
    "TripletMarginLoss-smooth": _labels(
        losses.TripletMarginLoss, oracles.triplet_margin, smooth=True
    ),
    "TripletMarginLoss-semihard-mined": _mined(
        losses.TripletMarginLoss,
        oracles.triplet_margin,
        miners.TripletMarginMiner(0.3, "semihard"),
        _semihard,
        "triplets",
        margin=0.2,
    ),
    "TripletMarginLoss-angular-mined": _mined(
        losses.TripletMarginLoss,
        oracles.triplet_margin,
        miners.AngularMiner(30),
        functools.partial(oracles.mine_angular, angle=30),
        "triplets",
        margin=0.2,
    ),
    "TripletMarginLoss-all-mined": _mined(
        losses.TripletMarginLoss,
        oracles.triplet_margin,
        miners.TripletMarginMiner(0.3, "semihard"),
        _semihard,
        "triplets",
        margin=0.2,
        mean_over="all",
    ),
    "TripletMarginLoss-hdc-mined": _mined(
        losses.TripletMarginLoss,
        oracles.triplet_margin,
        miners.HDCMiner(),
        oracles.mine_hdc,
        "triplets",
        margin=0.2,
    )._replace(by_order="of two equally hard pairs the first is taken"),
    "NTXentLoss": _labels(losses.NTXentLoss, oracles.nt_xent, temperature=0.5),
    "NTXentLoss-semihard-mined": _in_tiles(
        _mined(
            losses.NTXentLoss,
            oracles.nt_xent,
            miners.TripletMarginMiner(0.3, "semihard"),
            _semihard,
            "pairs",
            temperature=0.5,
        ),
        2,
    ),
    "DecoupledContrastiveLoss": _labels(
        losses.DecoupledContrastiveLoss, oracles.decoupled, temperature=0.5
    ),
    "SelfSupervisedLoss": Case(
        functools.partial(_self_supervised, losses.SupConLoss),
        lambda _, columns: oracles.self_supervised(oracles.sup_con, columns),
        3,
    ),
    "SelfSupervisedLoss-first": Case(
        functools.partial(
            _self_supervised,
            functools.partial(losses.MultiSimilarityLoss, beta=5.0),
            symmetric=False,
        ),
        functools.partial(oracles.multi_similarity_of_views, beta=5.0),
        2,
    ),
    "VICRegLoss": _columns(losses.VICRegLoss, oracles.vic_reg, None),
    "BarlowTwinsLoss": _columns(losses.BarlowTwinsLoss, oracles.barlow_twins, None),
    "SimSiamLoss": Case(losses.SimSiamLoss, oracles.sim_siam, 2, has_constants=True),
    "AlignmentLoss": _columns(losses.AlignmentLoss, oracles.alignment, None, power=1.5),
    "UniformityLoss": _columns(losses.UniformityLoss, oracles.uniformity, None),
    "SupConLoss": _in_tiles(_labels(losses.SupConLoss, oracles.sup_con), 4),
    "MultiSimilarityLoss": _labels(losses.MultiSimilarityLoss, oracles.multi_similarity),
    "MultiSimilarityLoss-mined": _mined(
        losses.MultiSimilarityLoss,
        oracles.multi_similarity,
        miners.MultiSimilarityMiner(),
        oracles.mine_multi_similarity,
        "pairs",
    ),
    "NTXentLoss-labels": _in_tiles(
        _several_labels(
            losses.NTXentLoss, oracles.nt_xent_of_overlaps, label_ids, temperature=0.5
        ),
        4,
    ),
    "SupConLoss-labels": _in_tiles(
        _several_labels(losses.SupConLoss, oracles.sup_con_of_overlaps, temperature=0.5), 4
    ),
    "MultiSimilarityLoss-labels": _several_labels(
        losses.MultiSimilarityLoss, oracles.multi_similarity_of_overlaps
    ),
    "LabelContrastiveLoss-labels": _several_labels(
        losses.LabelContrastiveLoss, oracles.label_contrastive_of_overlaps, label_ids
    ),
    "CircleLoss": _labels(losses.CircleLoss, oracles.circle, has_constants=True, gamma=8.0),
    "LiftedStructureLoss": _labels(losses.LiftedStructureLoss, oracles.lifted),
    "GeneralizedLiftedStructureLoss": _labels(
        losses.GeneralizedLiftedStructureLoss, oracles.generalized_lifted
    ),
    "LabelContrastiveLoss": _labels(
        losses.LabelContrastiveLoss, oracles.label_contrastive, pos_margin=0.2
    ),
    "LabelContrastiveLoss-anchors": _labels(
        losses.LabelContrastiveLoss, oracles.label_contrastive, mean_over="anchors"
    ),
    "LabelContrastiveLoss-mined": _mined(
        losses.LabelContrastiveLoss,
        oracles.label_contrastive,
        miners.MultiSimilarityMiner(),
        oracles.mine_multi_similarity,
        "pairs",
    ),
    "SignalToNoiseRatioContrastiveLoss": _labels(
        losses.SignalToNoiseRatioContrastiveLoss,
        functools.partial(oracles.label_contrastive, distance="snr"),
        neg_margin=3.0,
    ),
    "ThresholdConsistentMarginLoss": _labels(
        losses.ThresholdConsistentMarginLoss,
        oracles.threshold_consistent_margin,
        pos_weight=2.0,
        neg_margin=0.1,
    ),
    "IntraPairVarianceLoss": _labels(
        losses.IntraPairVarianceLoss, oracles.intra_pair_variance
    ),
    "NCALoss": _labels(losses.NCALoss, oracles.nca, scale=2.0),
    "TupletMarginLoss": _labels(
        losses.TupletMarginLoss, oracles.tuplet_margin, margin=0.3, scale=8.0
    ),
    "RankedListLoss": _labels(
        losses.RankedListLoss, oracles.ranked_list, positive_temperature=1.0
    ),
    "SmoothAPLoss": _labels(losses.SmoothAPLoss, oracles.smooth_ap, temperature=0.2),
    "PNPLoss": _labels(losses.PNPLoss, oracles.pnp, variant="Ib", temperature=0.2),
    "RecallAtKSurrogateLoss": _labels(
        losses.RecallAtKSurrogateLoss,
        oracles.recall_at_k_surrogate,
        k=[1, 3],
        temperature=0.2,
    ),
    "AngularLoss": _labels(losses.AngularLoss, oracles.angular, alpha=30.0),
    "FastAPLoss": _labels(losses.FastAPLoss, oracles.fast_ap, num_bins=5),
    "HistogramLoss": _labels(losses.HistogramLoss, oracles.histogram, num_bins=7),
    "DynamicSoftMarginLoss": _labels(
        losses.DynamicSoftMarginLoss, oracles.dynamic_soft_margin, num_bins=7
    ),
    "QuadrupletLoss": _labels(losses.QuadrupletLoss, oracles.quadruplet, other_margin=0.3),
    "NPairsLoss": _labels(losses.NPairsLoss, oracles.n_pairs)._replace(
        by_order="a class's first row is the anchor"
    ),
    "MarginLoss": _labels(losses.MarginLoss, oracles.margin),
    "MarginLoss-semihard-mined": _mined(
        losses.MarginLoss,
        oracles.margin,
        miners.TripletMarginMiner(0.3, "semihard"),
        _semihard,
        "triplets",
    ),
    "MarginLoss-learned": _labels(losses.MarginLoss, oracles.learned_margin, num_betas=1),
    "MarginLoss-learned-by-class": _labels(
        losses.MarginLoss, oracles.learned_margin, num_betas=2, nu=0.3
    )._replace(targets=binary),
    "CosineSimilarityLoss": _columns(
        losses.CosineSimilarityLoss, oracles.cosine_similarity, _scores
    ),
    "ContrastiveLoss": _columns(
        losses.ContrastiveLoss,
        oracles.contrastive,
        _scores,
        margin=2.0,
        distance="euclidean",
    ),
    "OnlineContrastiveLoss": _columns(
        losses.OnlineContrastiveLoss, oracles.online_contrastive, binary, margin=1.0
    ),
    "CoSENTLoss": _columns(losses.CoSENTLoss, oracles.co_sent, _scores, scale=5.0),
    "AnglELoss": _columns(losses.AnglELoss, oracles.angle, _scores, scale=5.0),
    "AnglELoss-negatives": _columns(losses.AnglELoss, oracles.angle, None, 4, scale=5.0),
    "EmbedDistillLoss": _columns(
        losses.EmbedDistillLoss,
        functools.partial(oracles.embed_distill, distance_name="cosine"),
        _numbers(2, 6),
    ),
    "EmbedDistillLoss-l2": Case(
        functools.partial(losses.EmbedDistillLoss, "l2"),
        functools.partial(oracles.embed_distill, distance_name="euclidean"),
        2,
        _numbers(2, 6),
    ),
    "MSELoss": _columns(losses.MSELoss, oracles.mse, _numbers(2, 6)),
    "MarginMSELoss": _columns(losses.MarginMSELoss, oracles.margin_mse, _numbers(2), 4),
    "DistillKLDivLoss": _columns(
        losses.DistillKLDivLoss,
        oracles.distill_kl_div,
        _numbers(3),
        4,
        student_temperature=0.5,
        similarity="cosine",
    ),
    "GISTEmbedLoss": _columns(
        losses.GISTEmbedLoss, oracles.gist, _numbers(2, 4), temperature=0.1
    ),
    "GISTEmbedLoss-negatives": _in_tiles(
        _columns(
            losses.GISTEmbedLoss,
            oracles.gist,
            _numbers(3, 4),
            3,
            margin_strategy="relative",
            margin=0.1,
            temperature=0.5,
            contrast_anchors=False,
        ),
        4,
    ),
    "CLIPLoss": _in_tiles(_columns(losses.CLIPLoss, oracles.clip, None, scale=0.5), 4),
    "SigLIPLoss": _columns(losses.SigLIPLoss, oracles.sig_lip, None, bias=-1.0),
    "SigLIPLoss-ids": _in_tiles(
        _columns(losses.SigLIPLoss, oracles.sig_lip, ids, exclude_equal_ids=True), 2
    ),
    "ContrastiveTensionLoss": _columns(
        losses.ContrastiveTensionLoss, oracles.contrastive_tension, _scores
    ),
    "ContrastiveTensionLossInBatchNegatives": _in_tiles(
        Case(
            functools.partial(losses.ContrastiveTensionLossInBatchNegatives, scale=5.0),
            lambda _, x: oracles.multiple_negatives_ranking(None, x, 5.0, symmetric=True),
            2,
        ),
        4,
    ),
    "DenoisingAutoEncoderLoss": _columns(
        losses.DenoisingAutoEncoderLoss, oracles.denoising_auto_encoder, _tokens, 4
    ),
    "ArcFaceLoss": _classes(losses.ArcFaceLoss, oracles.arc_face, scale=8.0),
    "CosFaceLoss": _classes(losses.CosFaceLoss, oracles.cos_face),
    "NormalizedSoftmaxLoss": _classes(
        losses.NormalizedSoftmaxLoss, oracles.normalized_softmax
    ),
    "ProxyNCALoss": _classes(losses.ProxyNCALoss, oracles.proxy_nca),
    "ProxyAnchorLoss": _classes(losses.ProxyAnchorLoss, oracles.proxy_anchor, alpha=4.0),
    "P2SGradLoss": _classes(losses.P2SGradLoss, oracles.p2s_grad),
    "CombinedMarginLoss": _classes(
        losses.CombinedMarginLoss,
        oracles.combined_margin,
        angle_factor=1.5,
        angle_margin=0.5,
        cosine_margin=0.2,
        scale=8.0,
        label_smoothing=0.2,
    ),
    "CurricularFaceLoss": _classes(
        losses.CurricularFaceLoss, oracles.curricular_face, has_constants=True, scale=8.0
    ),
    "ElasticFaceLoss": _classes(
        losses.ElasticFaceLoss, _elastic_face, margin=0.3, std=0.2, scale=8.0
    )._replace(by_order="the margins are drawn for positions"),
    "ElasticFaceLoss-by-hardness": _classes(
        losses.ElasticFaceLoss, _elastic_face, std=0.2, scale=8.0, by_hardness=True
    )._replace(by_order="the margins are drawn for positions"),
    "SoftTripleLoss": _classes(
        losses.SoftTripleLoss, oracles.cos_face, margin=0.1, scale=8.0
    ),
    "SphereFaceLoss": _classes(losses.SphereFaceLoss, oracles.sphere_face),
    "LargeMarginSoftmaxLoss": _classes(
        losses.LargeMarginSoftmaxLoss, oracles.sphere_face, margin=2.5, scale=2.0
    ),
    "AdaFaceLoss": _classes(
        losses.AdaFaceLoss, oracles.ada_face, has_constants=True, scale=8.0
    ),
    "MagFaceLoss": _classes(
        losses.MagFaceLoss, oracles.mag_face, min_length=1.2, max_length=2.0, scale=8.0
    ),
    "SoftmaxLoss": _classes(losses.SoftmaxLoss, oracles.softmax),
    "MatryoshkaLoss": Case(
        functools.partial(_matryoshka, losses.CoSENTLoss, dims=[6, 2], weights=[1.0, 0.5]),
        oracles.matryoshka(
            functools.partial(oracles.co_sent, scale=5.0), [6, 2], [1.0, 0.5]
        ),
        2,
        _scores,
    ),
}


def _of_layers(loss, oracle, make=losses.CoSENTLoss, **options):
    """A loss on the embeddings of three layers: the thirds of what it is given."""

    def layers(x):
        return tf.reshape(x, [tf.shape(x)[0], 2, 3, x.shape[2] // 3])

    @keras.saving.register_keras_serializable("cases", name=loss.__name__)
    class OfThirds(loss):
        takes_layers = False  # of a model

        def call(self, y_true, y_pred):
            return super().call(y_true, layers(y_pred))

    def of_thirds(y_true, y_pred, **constant):
        constant = {k: np.array(layers(x)) for k, x in constant.items()}
        return oracle(y_true, np.array(layers(y_pred)), **constant)

    def made(dtype=None, **further):
        return OfThirds(make(scale=1.0, dtype=dtype), **options, **further)

    return Case(made, of_thirds, 2, _scores, has_constants=True)


_co_sent = functools.partial(oracles.co_sent, scale=1.0)
CASES |= {
    "AdaptiveLayerLoss": _of_layers(
        losses.AdaptiveLayerLoss,
        functools.partial(
            oracles.adaptive_layer,
            _co_sent,
            prior_layers_weight=0.5,
            kl_temperature=2.0,
            layer_weighting="log",
        ),
        num_layers_per_step=1,
        prior_layers_weight=0.5,
        kl_temperature=2.0,
        layer_weighting="log",
    ),
    "Matryoshka2dLoss": _of_layers(
        losses.Matryoshka2dLoss,
        functools.partial(oracles.adaptive_layer, oracles.matryoshka(_co_sent, [2, 1])),
        dims=[2, 1],
    ),
}
CASES |= {
    "GlobalOrthogonalRegularizationLoss": _columns(
        losses.GlobalOrthogonalRegularizationLoss,
        oracles.global_orthogonal,
        None,
        mean_weight=0.5,
    ),
    "FlopsLoss": _columns(losses.FlopsLoss, oracles.flops, None, 0),
    "LpRegularizationLoss": _columns(
        losses.LpRegularizationLoss, oracles.lp_regularization, None, p=3, power=2
    ),
    "ZeroMeanRegularizationLoss": _columns(
        losses.ZeroMeanRegularizationLoss, oracles.zero_mean_regularization, None, 0
    ),
    "WeightedSum": Case(
        _weighted_sum,
        oracles.weighted_sum(
            [functools.partial(oracles.co_sent, scale=5.0), oracles.lp_regularization],
            [1.0, 0.5],
        ),
        2,
        _scores,
    ),
}

CASES |= {
    "ListNetLoss": _columns(losses.ListNetLoss, oracles.list_net, _grades, 0),
    "ListMLELoss-given-order": _columns(losses.ListMLELoss, oracles.list_mle, _grades, 0),
    "ListMLELoss": _columns(
        losses.ListMLELoss, oracles.list_mle, _grades, 0, respect_input_order=False
    ),
    "PositionAwareListMLELoss": Case(
        losses.PositionAwareListMLELoss,
        functools.partial(oracles.list_mle, position_aware=True),
        0,
        _grades,
    ),
    "RankNetLoss": _columns(
        losses.RankNetLoss,
        functools.partial(oracles.lambda_loss, weighting_scheme=None),
        _grades,
        0,
        sigma=2.0,
    ),
    **{
        f"LambdaLoss-{scheme}": _columns(
            losses.LambdaLoss,
            oracles.lambda_loss,
            _grades,
            0,
            weighting_scheme=scheme,
            k=k,
        )
        for scheme, k in (("ndcg_loss1", 2), ("ndcg_loss2", None), ("lambda_rank", 3))
    },
    "LambdaLoss": _columns(
        losses.LambdaLoss, oracles.lambda_loss, _grades, 0, k=2, sigma=0.5, mu=2.0
    ),
    "ADRMSELoss": _columns(losses.ADRMSELoss, oracles.adr_mse, _grades, 0, alpha=2.0),
    "CrossEncoderMultipleNegativesRankingLoss": _columns(
        losses.CrossEncoderMultipleNegativesRankingLoss,
        oracles.surprise_of_first,
        None,
        0,
        scale=2.0,
    ),
}

# Of each loss's cases the last, which has the most options.
ONE_OF_EACH_LOSS = list({name.split("-")[0]: name for name in CASES}.values())
ONE_OF_EACH_KIND = [
    "MultipleNegativesRankingLoss-symmetric-ids",
    "BatchAllTripletLoss",
    "BatchHardTripletLoss",
    "TripletMarginLoss-swap",
    "TripletMarginLoss-semihard-mined",
    "TripletMarginLoss-hdc-mined",
    "NTXentLoss",
    "LiftedStructureLoss",
    "SmoothAPLoss",
    "SelfSupervisedLoss-first",
    "UniformityLoss",
    "IntraPairVarianceLoss",
    "NPairsLoss",
    "OnlineContrastiveLoss",
    "CoSENTLoss",
    "GISTEmbedLoss",
    "SigLIPLoss-ids",
    "ProxyAnchorLoss",
    "MegaBatchMarginLoss-ids",
    "GlobalOrthogonalRegularizationLoss",
]
