"""Loaders of public datasets, from their official files and from their Hub layouts."""

from pilot_secure.data.public import coco_captions, gqa, ocrvqa, refcoco, scienceqa
from pilot_secure.data.public.source import DatasetFormat, HubTables, OfficialFiles

FORMATS: dict[str, DatasetFormat] = {
    "gqa": gqa.FORMAT,
    "coco_captions": coco_captions.FORMAT,
    "refcoco": refcoco.FORMAT,
    "scienceqa": scienceqa.FORMAT,
    "ocrvqa": ocrvqa.FORMAT,
}

__all__ = ["FORMATS", "DatasetFormat", "HubTables", "OfficialFiles"]
