"""PubMedQA as a workload: questions about abstracts, by the topic of their MeSH headings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.data import DataError, Example, load_examples
from tools.experiment.workloads.records import Record, find_files
from tools.experiment.workloads.workload import Question

PATTERNS = ("pubmedqa*.json", "ori_pqal.json")
FETCH = "fetch data/ori_pqal.json from github.com/pubmedqa/pubmedqa"

# Topic → beginnings of the words of a MeSH heading that speak for it. Made from the headings that
# are most frequent in PQA-L, less the check tags (Humans, Female, Aged) and the names of methods
# (Retrospective Studies, Risk Factors), which say nothing about a subject.
TOPICS: dict[str, tuple[str, ...]] = {
    "oncology": ("neoplasm", "carcinoma", "adenocarcinoma", "tumor", "antineoplastic", "lymphatic",
                 "metasta", "melanoma", "leukemia", "lymphoma", "mastectomy", "chemotherapy"),
    "heart": ("heart", "cardi", "myocardial", "coronary", "hypertension", "blood pressure",
              "atrial", "stroke", "vascular", "arter", "aort", "ventric", "echocardiography"),
    "birth": ("pregnan", "infant, newborn", "fetal", "labor", "birth", "obstetric", "gestation",
              "cesarean", "delivery, obstetric", "parity", "infertility", "fertiliz", "uter"),
    "digestion": ("laparo", "gastr", "liver", "hernia", "colon", "colorectal", "append", "intestin",
                  "rect", "esophag", "chol", "pancrea", "hepat", "anal ", "bile"),
    "mind": ("depress", "psych", "cognit", "brain", "schizo", "anxiety", "mental", "stress, psych",
             "alcohol", "smok", "dementia", "suicid", "behavior", "epilep", "sleep"),
    "infection": ("infection", "hiv", "bacter", "vaccin", "anti-bacterial", "virus", "sepsis",
                  "tubercul", "pneumon", "asthma", "respirat", "lung", "pulmonary"),
    "skeleton": ("fracture", "knee", "hip", "bone", "arthr", "wounds", "spin", "shoulder", "femor",
                 "orthoped", "muscle", "joint", "osteo", "tooth", "dental", "tibia"),
    "metabolism": ("diabet", "obesity", "body mass", "insulin", "diet", "blood glucose",
                   "nutrition", "cholesterol", "vitamin", "lipid", "exercise", "thyroid",
                   "body weight"),
    "kidney": ("kidney", "renal", "prostat", "urin", "urolog", "ureter", "bladder", "nephr",
               "creatinine", "dialysis", "transplant"),
    "services": ("health services", "attitude", "physicians", "family practice", "cost",
                 "education", "quality of health", "hospitaliz", "length of stay", "emergency",
                 "referral", "health care", "clinical competence", "health knowledge", "insurance"),
    "senses": ("eye", "visual", "retina", "cornea", "hearing", "ear", "otitis", "nose", "tonsil",
               "cataract", "glaucoma", "skin", "dermat", "larynx", "voice"),
}  # fmt: skip
OTHER = "other"


def med_records(data: Path | None) -> list[Record]:
    """Return PubMedQA's records: the question with its abstract, then its decision and long answer.

    Raises:
        DataError: There is no such file, or it is not PubMedQA's.
    """
    files = find_files("med", data, patterns=PATTERNS, fetch=FETCH)
    return [record for file in files for record in _file_records(file)]


def topic(headings: Sequence[str]) -> str:
    """Return the topic that most of an article's MeSH headings speak for; the first where alike."""
    scores = {name: sum(_speaks(heading, stems) for heading in headings)
              for name, stems in TOPICS.items()}  # fmt: skip
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] else OTHER


def _speaks(heading: str, stems: Sequence[str]) -> bool:
    words = f" {heading.lower()}"
    return any(f" {stem}" in words for stem in stems)


def _file_records(file: Path) -> list[Record]:
    articles: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    examples = load_examples(file)
    return [
        _record(identifier, article, example)
        for (identifier, article), example in zip(articles.items(), examples, strict=True)
        if isinstance(example, Example)
    ]


def _record(identifier: str, article: dict[str, Any], example: Example) -> Record:
    decision, headings = article.get("final_decision"), article.get("MESHES")
    if decision not in {"yes", "no", "maybe"} or not isinstance(headings, list):
        raise DataError(
            f"{example.place}: no 'final_decision' of yes, no or maybe, or no list of 'MESHES': "
            "this is not PubMedQA's expert-labelled set (PQA-L)"
        )
    answer = f"{decision}. {example.completion}"
    question = Question(example.prompt, answer, decision=decision)
    return Record(example.prompt, answer, topic(headings), identifier, question)
