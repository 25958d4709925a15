"""Runs turned into one page that a person can read without having been there, and its figures as JSON."""

from fairtat.evaluation.report.gallery import Gallery, make_gallery
from fairtat.evaluation.report.page import write_report
from fairtat.evaluation.report.record import RunRecord, read_record
from fairtat.evaluation.report.report import Report

__all__ = ["Gallery", "Report", "RunRecord", "make_gallery", "read_record", "write_report"]
