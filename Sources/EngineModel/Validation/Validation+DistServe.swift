extension Validation {
    /// OPT-13B on A100-80GB: the profiles behind DistServe's simulator (OSDI '24, profiler-a100-80g.distserve.json), which are fits of
    /// prefill over n and n², and of decode over the sum of contexts and the batch, for small and for large batches; evaluated
    /// inside the ranges that were profiled. And the KV cache's capacity that it measured (max_num_tokens.csv).
    static var distServe: [Point] {
        fits.flatMap { fit in prefill(fit) } + fits.flatMap { fit in decode(fit) } + capacity
    }

    private struct Fit {
        var devices: Int
        /// ms, ms per token, ms per token².
        var prefill: (base: Double, token: Double, square: Double)
        /// ms, ms per token of context, ms per sequence.
        var smallBatch: (base: Double, context: Double, sequence: Double)
        var largeBatch: (base: Double, context: Double, sequence: Double)
    }

    private static let fits = [
        Fit(
            devices: 1, prefill: (18.10, 0.10191, 7.12e-6), smallBatch: (19.93, 6.27e-4, 0.0385), largeBatch: (7.17, 5.80e-4, 0.158)),
        Fit(
            devices: 2, prefill: (14.74, 0.06858, 2.45e-6), smallBatch: (13.29, 3.41e-4, 0.0630),
            largeBatch: (10.64, 3.12e-4, 0.0856)),
        Fit(
            devices: 4, prefill: (12.06, 0.03808, 5.2e-7), smallBatch: (10.26, 1.88e-4, 0.0327),
            largeBatch: (10.48, 1.71e-4, 0.0457)),
    ]
    /// From this batch on the second fit holds.
    private static let largeBatch = 95

    private static func prefill(_ fit: Fit) -> [Point] {
        [512, 1_024, 2_048].map { tokens in
            let n = Double(tokens)
            return Point(
                series: "DistServe prefill", label: "opt-13b a100 tp\(fit.devices), \(tokens) tokens", unit: "ms",
                published: fit.prefill.base + fit.prefill.token * n + fit.prefill.square * n * n,
                predicted: prefillMilliseconds(.optWith13B, .a100, devices: fit.devices, tokens: tokens))
        }
    }

    private static func decode(_ fit: Fit) -> [Point] {
        [1, 16, 32, 64, 128].flatMap { batch in
            [256, 1_024].map { context in
                let line = batch < largeBatch ? fit.smallBatch : fit.largeBatch
                return Point(
                    series: "DistServe decode", label: "opt-13b a100 tp\(fit.devices), batch \(batch), context \(context)", unit: "ms",
                    published: line.base + line.context * Double(batch * context) + line.sequence * Double(batch),
                    predicted: decodeMilliseconds(.optWith13B, .a100, devices: fit.devices, batch: batch, context: context))
            }
        }
    }

    private static var capacity: [Point] {
        [(1, 66_144), (2, 163_008), (4, 356_736), (8, 744_208)].map { devices, tokens in
            let preset = EnginePreset(model: .optWith13B, accelerator: .a100, tensorParallel: devices)
            return Point(
                series: "DistServe KV capacity", label: preset.name, unit: "tokens", published: tokens,
                predicted: Double(preset.cacheTokens))
        }
    }
}
