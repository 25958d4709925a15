"""Runs turned into one page that a person can read without having been there, and its figures as JSON."""

from fairtat.evaluation.report.gallery import Gallery, make_gallery
from fairtat.evaluation.report.record import RunRecord, read_record
from fairtat.evaluation.report.report import Report, class_table_html

__all__ = ["Gallery", "Report", "RunRecord", "class_table_html", "make_gallery", "read_record"]
