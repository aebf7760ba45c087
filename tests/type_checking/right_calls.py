"""Right calls, of which a strict type checker must not complain. It is checked, and run by no test."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from embedding_expansion import (
    AngularLoss,
    Answer,
    ArcFaceLoss,
    BatchHardMiner,
    BinomialDevianceLoss,
    ByClass,
    Changes,
    CircleLoss,
    ClassBalancedSampler,
    Client,
    ClientAnswer,
    ClientMatch,
    Clustering,
    Clusters,
    Collection,
    ContrastiveLoss,
    CosFaceLoss,
    CrossBatchMemory,
    DistanceWeightedMiner,
    DistributedLoss,
    Duplicates,
    EasyPositiveMiner,
    Embedder,
    EmbeddingExpansion,
    EmbeddingModel,
    FastAPLoss,
    GeneralizedLiftedStructureLoss,
    HistogramLoss,
    HPHNTripletLoss,
    Index,
    IntraPairVarianceLoss,
    Item,
    LiftedStructureLoss,
    MarginLoss,
    Match,
    MultiSimilarityLoss,
    MultiSimilarityMiner,
    NCALoss,
    NormalizedSoftmaxLoss,
    NPairLoss,
    NTXentLoss,
    OpenSetCurve,
    Pairs,
    ProxyAnchorLoss,
    ProxyNCALoss,
    RankedListLoss,
    Recall,
    RecallAtKLoss,
    SelectivelyContrastiveLoss,
    SignalToNoiseRatioContrastiveLoss,
    SmoothAPLoss,
    SoftTripleLoss,
    SubCenterArcFaceLoss,
    SupConLoss,
    SyntheticSamples,
    Terms,
    TripletLoss,
    TupletMarginLoss,
    VerificationCurve,
    agglomerative,
    cluster,
    clustering_metrics,
    compare,
    create_index,
    expand,
    gallery_threshold,
    hardest,
    hdbscan,
    k_reciprocal,
    kmeans,
    list_metrics,
    near_duplicates,
    nearest,
    open_dataset,
    open_index,
    open_set,
    partition_metrics,
    retrieval_by_class,
    retrieval_metrics,
    retrieval_values,
    synthesize,
    verification,
)

E, Y = torch.randn(8, 4), torch.arange(8) // 2
rows = np.zeros((8, 4), dtype=np.float32)
loss = TripletLoss()

TripletLoss(0.2, "semihard", soft_margin=True)
TripletLoss(margin=1, normalize=False, chunk=None)
ContrastiveLoss(squared=False, average="active", miner=BatchHardMiner())
HPHNTripletLoss(soft_margin=True)
NPairLoss(scale=14.3, ignore_index=-1)
LiftedStructureLoss(margin=1.0)
GeneralizedLiftedStructureLoss(positive_margin=0.1)
MultiSimilarityLoss(2.0, 50.0, 0.5, miner=MultiSimilarityMiner(0.1), statistics=True)
MarginLoss(learn_beta=True, num_classes=4, nu=0.1, count="triplets")
CircleLoss(scale=80, chunk=16)
SupConLoss(temperature=0.1)
NTXentLoss(temperature=0.07)
NCALoss(objective="log")
TupletMarginLoss(margin=5.73)
IntraPairVarianceLoss(positive_epsilon=0.01)
RankedListLoss(imbalance=0.5)
SelectivelyContrastiveLoss(0.2, form="program")
AngularLoss(angle=40)
SignalToNoiseRatioContrastiveLoss(margin=1.0)
HistogramLoss(bins=50)
FastAPLoss(bins=10)
SmoothAPLoss(query_counts=True)
RecallAtKLoss(ks=(1, 2), form="program")
ProxyNCALoss(10, 64, whole_softmax=True)
NormalizedSoftmaxLoss(num_classes=10, embedding_size=64, temperature=0.05)
CosFaceLoss(10, 64, margin=0.35)
ArcFaceLoss(10, 64, 0.5, 64.0)
SubCenterArcFaceLoss(10, 64, sub_centers=3)
SoftTripleLoss(10, 64, tau=0.1)
ProxyAnchorLoss(10, 64, alpha=32.0)
EmbeddingExpansion(loss, n=2, scope="anchor", normalize_synthetic=True, max_segments=64)
EmbeddingExpansion(MultiSimilarityLoss(), n=math.inf, reduction="mean")
CrossBatchMemory(EmbeddingExpansion(loss), embedding_size=4, size=1024, start=0)
DistributedLoss(CrossBatchMemory(loss, 4))

value: Tensor = loss(E, Y)
# Every module of the registries, and those around a loss: a call is a tensor.
value = AngularLoss()(E, Y)
value = BinomialDevianceLoss()(E, Y)
value = CircleLoss()(E, Y)
value = ContrastiveLoss()(E, Y)
value = FastAPLoss()(E, Y)
value = GeneralizedLiftedStructureLoss()(E, Y)
value = HPHNTripletLoss()(E, Y)
value = HistogramLoss()(E, Y)
value = IntraPairVarianceLoss()(E, Y)
value = LiftedStructureLoss()(E, Y)
value = MarginLoss()(E, Y)
value = MultiSimilarityLoss()(E, Y)
value = NCALoss()(E, Y)
value = NPairLoss()(E, Y)
value = NTXentLoss()(E, Y)
value = RankedListLoss()(E, Y)
value = RecallAtKLoss()(E, Y)
value = SelectivelyContrastiveLoss()(E, Y)
value = SignalToNoiseRatioContrastiveLoss()(E, Y)
value = SmoothAPLoss()(E, Y)
value = SupConLoss()(E, Y)
value = TripletLoss()(E, Y)
value = TupletMarginLoss()(E, Y)
value = ArcFaceLoss(4, 4)(E, Y)
value = CosFaceLoss(4, 4)(E, Y)
value = NormalizedSoftmaxLoss(4, 4)(E, Y)
value = ProxyAnchorLoss(4, 4)(E, Y)
value = ProxyNCALoss(4, 4)(E, Y)
value = SoftTripleLoss(4, 4)(E, Y)
value = SubCenterArcFaceLoss(4, 4)(E, Y)
value = EmbeddingExpansion(loss)(E, np.arange(8) // 2)
value = SyntheticSamples(loss)(E, Y)
value = CrossBatchMemory(loss, 4)(E, Y)
value = loss(E, [0, 0, 1, 1, 2, 2, 3, 3])
value = loss(E, Y, reference=E, reference_labels=Y)
value = loss(E, Y, rows=torch.arange(2), from_memory=torch.zeros(8, dtype=torch.bool))
value = DistributedLoss(loss)(E, Y, MultiSimilarityMiner()(E, Y))
(gradient,) = torch.autograd.grad(value, E)
total: float = (loss(E, Y) + 0.1 * loss(E, Y)).item()
terms: Terms = loss.per_anchor(E, Y)
mean: Tensor = loss.per_anchor(E, Y).mean()
pairs: Pairs = compare(E, Y, metric="inner")
pairs = EasyPositiveMiner()(expand(E, Y, n=2, scope="class_pair"))
pairs = DistanceWeightedMiner(dimensions=4)(pairs)
winners = hardest(E, Y, n=1).ends
points, of_points = synthesize(E, Y, n=3)

figures: dict[str, float] = retrieval_metrics(E, Y, ks=(1, 2, 4))
figures = retrieval_metrics(rows, [0, 0, 1, 1, 2, 2, 3, 3], ks=[1], precision_at=[5], chunk=128)
each = retrieval_values(E, Y, is_query=np.ones(8, dtype=bool))
by_class: ByClass = retrieval_by_class(E, Y, gallery=E, gallery_labels=Y)
similarities, places = nearest(E, E, k=3, exclude=[0, 1, 2, 3, 4, 5, 6, 7])
clusters: Clusters = kmeans(E, 4, start="sample", restarts=2)
clustering: Clustering = cluster(rows, k=2)
found = agglomerative(E, k=4, linkage="average") + hdbscan(E, min_cluster_size=2)
figures = clustering_metrics(E, Y, seed=1) | partition_metrics(Y, Y) | list_metrics(places, Y, Y)
copies: Duplicates = near_duplicates(rows, 0.98, most_pairs=10)
curve: tuple[VerificationCurve, OpenSetCurve] = (
    verification(E, Y, sample=100),
    open_set(E, Y, gallery=E, gallery_labels=Y),
)
grown: float | None = gallery_threshold(E, Y, false_alarm_rate=0.05).at(100)
scores, ranks = k_reciprocal(E, E, top=3, k1=4, k2=2)
sampler = ClassBalancedSampler(np.arange(8) // 2, classes_per_batch=2, images_per_class=2, seed=0).batch(0)


def of_images(model: EmbeddingModel, images: Tensor) -> Tensor:
    return model(images)


def of_a_collection(path: str) -> int:
    index = create_index(path, 128, kind="hnsw", precision="float16")
    index.add(rows, [Item("a.jpg", label="a", metadata={"year": 2020})])
    embedder = Embedder.load("runs/birds", device="cpu", batch_size=8)
    changes: Changes = index.add([Item("b.jpg")], rows[:1])
    matches: list[list[Match]] = index.search(rows, k=3)
    recall: Recall | None = index.build()
    opened: Index = open_index(path)
    collection = Collection(opened, embedder)
    answers: list[Answer] = collection.search(collection.embed([path]), k=2)
    asked: ClientAnswer = Client("http://127.0.0.1:8000", timeout=5.0).search("a.jpg")
    nearest_of_server: ClientMatch = asked.matches[0]
    print(changes, matches, recall, answers, nearest_of_server.label, asked.known)
    return len(open_dataset("glyphs", seed=0).train.labels)
