// Percentiles, tables, CSV and self-contained HTML pages of measured and simulated runs.
