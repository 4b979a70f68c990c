"""Label maps of whole models."""

from .predict import predict

__all__ = ["predict"]
