"""The summary table, charts, the report page and the model card."""
