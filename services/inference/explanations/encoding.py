"""Explanations as the contract has them."""

from handful.bundle.neighbours import Near
from handful.v1.inference_pb2 import EvidenceMap, NearestExample
from services.inference.explanations.explaining import Places


def evidence_map(places: Places) -> EvidenceMap:
    rows, columns = places.values.shape
    start, end = places.seconds
    return EvidenceMap(
        method=EvidenceMap.METHOD_CLASS_ACTIVATION if places.exact else EvidenceMap.METHOD_OCCLUSION,
        rows=rows,
        columns=columns,
        values=places.values.ravel(),
        png=places.png,
        start_seconds=start,
        end_seconds=end,
        band_hertz=places.hertz,
    )


def nearest_example(one: Near, labels: tuple[str, ...]) -> NearestExample:
    return NearestExample(content_sha256=one.content_sha256, label=labels[one.label], distance=one.distance)
