"""Export of encoders as SavedModels that can be served without tfembloss."""

from tfembloss.export.encoder import export_encoder

__all__ = ["export_encoder"]
