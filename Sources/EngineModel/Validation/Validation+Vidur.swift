extension Validation {
    /// Vidur's operator profiles (MLSys '24, data/profiling): the sum of one layer's operators but attention and communication,
    /// and the all-reduces of a prefill on DGX machines. All-reduces of less than 5 MB are left out: their medians do not grow
    /// with the message (62 µs for 2 KB and 36 µs for 84 KB on eight A100).
    static var vidur: [Point] { layers.flatMap { row in layerPoints(row) } + exchanges.flatMap { row in exchangePoints(row) } }

    private typealias LayerRow = (model: ModelShape, accelerator: Accelerator, devices: Int, microseconds: [Double])
    private typealias ExchangeRow = (accelerator: Accelerator, devices: Int, microseconds: [Double])

    private static let layers: [LayerRow] = [
        (.llama2With7B, .a100, 1, [290, 303, 1_042, 4_172, 8_171]), (.llama2With7B, .a100, 4, [98, 104, 318, 1_047, 2_099]),
        (.llama2With7B, .h100, 1, [175, 183, 375, 1_266, 2_592]), (.llama2With7B, .h100, 4, [64, 71, 135, 416, 790]),
        (.llama2With70B, .a100, 4, [311, 336, 1_116, 4_185, 7_912]), (.llama2With70B, .a100, 8, [177, 190, 648, 2_290, 4_211]),
        (.llama2With70B, .h100, 4, [179, 191, 375, 1_420, 2_772]), (.llama2With70B, .h100, 8, [105, 112, 221, 795, 1_538]),
    ]
    private static let exchanges: [ExchangeRow] = [
        (.a100, 2, [75, 111, 289]), (.a100, 4, [94, 149, 402]), (.a100, 8, [112, 179, 454]), (.h100, 2, [35, 52, 162]),
        (.h100, 4, [44, 70, 206]), (.h100, 8, [57, 89, 234]),
    ]

    private static func layerPoints(_ row: LayerRow) -> [Point] {
        zip([1, 64, 512, 2_048, 4_096], row.microseconds).map { tokens, published in
            Point(
                series: "Vidur layer", label: "\(row.model.name) \(row.accelerator.name) tp\(row.devices), \(tokens) tokens", unit: "µs",
                published: published,
                predicted: 1e6
                    * StepTimeModel.layerSeconds(
                        model: row.model, accelerator: row.accelerator, tensorParallel: row.devices, tokens: tokens))
        }
    }

    private static func exchangePoints(_ row: ExchangeRow) -> [Point] {
        zip([5.2, 10.5, 42], row.microseconds).map { megabytes, published in
            Point(
                series: "Vidur all-reduce", label: "\(row.accelerator.name) tp\(row.devices), \(megabytes) MB", unit: "µs",
                published: published,
                predicted: 1e6
                    * StepTimeModel.allReduceSeconds(bytes: megabytes * 1e6, accelerator: row.accelerator, devices: row.devices))
        }
    }
}
