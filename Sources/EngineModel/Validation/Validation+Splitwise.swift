extension Validation {
    /// Llama-2-70B with the DeepSpeed and vLLM of 2023: the table behind Splitwise's simulator (ISCA '24, perf_model.csv). Its token
    /// times are those of a stack bound by its host: four and eight H100 need the same 29.7 ms, where the weights' read
    /// takes 13 and 7. They are counted here nevertheless.
    static var splitwise: [Point] {
        prompts.flatMap { row in
            zip([512, 2_048, 8_192], row.milliseconds).map { tokens, published in
                Point(
                    series: "Splitwise prompt", label: "llama-2-70b \(row.accelerator.name) tp\(row.devices), \(tokens) tokens",
                    unit: "ms", published: published,
                    predicted: prefillMilliseconds(.llama2With70B, row.accelerator, devices: row.devices, tokens: tokens))
            }
        }
            + tokens.flatMap { row in
                zip([1, 32], row.milliseconds).map { batch, published in
                    Point(
                        series: "Splitwise token", label: "llama-2-70b \(row.accelerator.name) tp\(row.devices), batch \(batch)",
                        unit: "ms", published: published,
                        predicted: decodeMilliseconds(
                            .llama2With70B, row.accelerator, devices: row.devices, batch: batch, context: 1_024))
                }
            }
    }

    private typealias Row = (accelerator: Accelerator, devices: Int, milliseconds: [Double])

    private static let prompts: [Row] = [
        (.h100, 8, [53.4, 136.8, 844.9]), (.h100, 4, [59.6, 200.7, 953.6]), (.a100, 8, [94.3, 274.2, 1_549.8]),
        (.a100, 4, [127, 403, 2_279]), (.a100, 2, [197, 688, 2_990]),
    ]
    private static let tokens: [Row] = [(.h100, 8, [29.8, 38.6]), (.h100, 4, [29.7, 36.9]), (.a100, 8, [44.9, 53.0])]

    /// Qwen3-32B on two H100 with vLLM of 2026: the peak prefill throughput in llm-d's recipe, as the time of 8,192 tokens.
    static var llmD: [Point] {
        [
            Point(
                series: "llm-d prefill", label: "qwen3-32b h100 tp2, 8192 tokens", unit: "ms", published: 8_192_000 / 15_928,
                predicted: prefillMilliseconds(.qwen3With32B, .h100, devices: 2, tokens: 8_192))
        ]
    }
}
