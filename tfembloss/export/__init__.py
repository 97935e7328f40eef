"""SavedModels that embed raw inputs and need no tfembloss to be served."""

from tfembloss.export.encoder import export_encoder

__all__ = ["export_encoder"]
