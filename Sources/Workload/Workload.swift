// What arrives when: the standard synthetic workloads and readers of published traces, as values.
