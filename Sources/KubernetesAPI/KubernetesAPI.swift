// A client of the Kubernetes API server: credentials, list, watch.
