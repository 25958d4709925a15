"""Runs turned into one page that a person can read without having been there, and its figures as JSON."""

from fairtat.evaluation.report.gallery import Gallery, make_gallery
from fairtat.evaluation.report.page import REPORT_FILES, check_page, is_page, write_report
from fairtat.evaluation.report.record import RunRecord, read_record
from fairtat.evaluation.report.report import Report

__all__ = [
    "REPORT_FILES",
    "Gallery",
    "Report",
    "RunRecord",
    "check_page",
    "is_page",
    "make_gallery",
    "read_record",
    "write_report",
]
