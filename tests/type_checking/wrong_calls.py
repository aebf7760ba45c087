"""Wrong calls, each on a line that ends in `# wrong`: a strict type checker must complain of every one.

It is checked, and run by no test.
"""

from __future__ import annotations

import numpy as np
import torch

from embedding_expansion import (
    AngularLoss,
    ArcFaceLoss,
    CircleLoss,
    ClassBalancedSampler,
    Client,
    ContrastiveLoss,
    CosFaceLoss,
    CrossBatchMemory,
    DistanceWeightedMiner,
    DistributedLoss,
    Embedder,
    EmbeddingExpansion,
    EmbeddingModel,
    FastAPLoss,
    HistogramLoss,
    HPHNTripletLoss,
    Item,
    MarginLoss,
    MultiSimilarityLoss,
    MultiSimilarityMiner,
    NCALoss,
    NPairLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    RankedListLoss,
    RecallAtKLoss,
    SelectivelyContrastiveLoss,
    SmoothAPLoss,
    SoftTripleLoss,
    SubCenterArcFaceLoss,
    SupConLoss,
    TripletLoss,
    agglomerative,
    compare,
    create_index,
    diffusion,
    expand,
    gallery_threshold,
    hardest,
    k_reciprocal,
    kmeans,
    near_duplicates,
    nearest,
    open_dataset,
    open_set,
    retrieval_metrics,
    retrieval_values,
    synthesize,
    verification,
)

E, Y = torch.randn(8, 4), torch.arange(8) // 2
rows = np.zeros((8, 4), dtype=np.float32)
loss = TripletLoss()

TripletLoss(margn=0.2)  # wrong
TripletLoss(margin="0.2")  # wrong
TripletLoss(mining="semihart")  # wrong
TripletLoss(0.2, "all", False, True, "all", True)  # wrong
TripletLoss(chunk=2.5)  # wrong
TripletLoss(reduction="sum")  # wrong
ContrastiveLoss(average="activ")  # wrong
ContrastiveLoss(squared="no")  # wrong
HPHNTripletLoss(soft_margins=True)  # wrong
NPairLoss(1.0, 2.0)  # wrong
MultiSimilarityLoss(alfa=2.0)  # wrong
MultiSimilarityLoss(normalise=False)  # wrong
MultiSimilarityLoss(miner="easy")  # wrong
MultiSimilarityLoss(statistics=2.5)  # wrong
MarginLoss(count="triplet")  # wrong
MarginLoss(num_classes=2.0)  # wrong
CircleLoss(scale=None)  # wrong
SupConLoss(temperature="0.1")  # wrong
NTXentLoss(ignore_index="none")  # wrong
NCALoss(objective="linear")  # wrong
RankedListLoss(temperature=10.0)  # wrong
SelectivelyContrastiveLoss(form="paper")  # wrong
AngularLoss(angle=[45.0])  # wrong
HistogramLoss(bins=10.5)  # wrong
FastAPLoss(bins="10")  # wrong
SmoothAPLoss(query_counts="yes")  # wrong
RecallAtKLoss(ks=4)  # wrong
RecallAtKLoss(form="programm")  # wrong
ArcFaceLoss(embedding_size=64)  # wrong
CosFaceLoss("10", 64)  # wrong
SubCenterArcFaceLoss(10, 64, sub_centers=3.0)  # wrong
SoftTripleLoss(10, 64, 10, 0.01, 20.0, 0.1, 0.2)  # wrong
ProxyAnchorLoss(10, 64, scale=32.0)  # wrong
EmbeddingExpansion(TripletLoss)  # wrong
EmbeddingExpansion(loss, scop="anchor")  # wrong
EmbeddingExpansion(loss, scope="ancor")  # wrong
EmbeddingExpansion(loss, n="2")  # wrong
EmbeddingExpansion(loss, max_segments=2.0)  # wrong
CrossBatchMemory(loss)  # wrong
CrossBatchMemory(loss, 4, size=2.0)  # wrong
CrossBatchMemory(loss, 4, starts=1)  # wrong
DistributedLoss(loss, reduction="mean")  # wrong
DistanceWeightedMiner(dimensions="4")  # wrong
MultiSimilarityMiner(eps=0.1)  # wrong
loss(E)  # wrong
len(loss(E, Y))  # wrong
loss(E, Y, refrence=E)  # wrong
loss(E, "labels")  # wrong
loss(E, Y, rows=[0, 1])  # wrong
EmbeddingExpansion(loss)(E)  # wrong
DistributedLoss(loss)(E)  # wrong
loss(E, Y).total()  # wrong
compare(E, Y, metric="cosine")  # wrong
expand(E, Y)  # wrong
expand(E, Y, n=2, scope="class")  # wrong
hardest(E, Y, n=None)  # wrong
synthesize(E, Y, n=2.5)  # wrong
retrieval_metrics(E, Y, ks="1")  # wrong
retrieval_metrics(E, Y, ks=1)  # wrong
retrieval_metrics(E, Y, top=1)  # wrong
retrieval_values(E, Y, is_gallry=Y)  # wrong
nearest(E, E, k="3")  # wrong
nearest(E, k=3)  # wrong
kmeans(E, 2.0)  # wrong
kmeans(E, 2, start="random")  # wrong
agglomerative(E, linkage="ward")  # wrong
near_duplicates(rows, most_pairs=1.5)  # wrong
verification(E, Y, sample=0.5)  # wrong
open_set(E, Y, galery=E)  # wrong
gallery_threshold(E, Y, 0.05)  # wrong
k_reciprocal(E, E, top="3")  # wrong
diffusion(E, E, top=3, k=2.0)  # wrong
create_index("place", 4, kind="hsnw")  # wrong
create_index("place", 4, precision="int8")  # wrong
Item(label="a")  # wrong
Embedder.load("run", batch_size="8")  # wrong
Client("http://127.0.0.1:8000", timeout="5")  # wrong
EmbeddingModel(dim="128")  # wrong
EmbeddingModel(pooling="max")  # wrong
open_dataset("glyphs", seed="0")  # wrong
ClassBalancedSampler(Y.numpy(), 2, 2)  # wrong
