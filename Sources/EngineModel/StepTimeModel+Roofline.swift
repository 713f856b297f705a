/// Step time from first principles: what has to be read, computed and exchanged, over what the devices deliver.
///
/// Constants that hold for every device, beside those of ``Accelerator``:
extension StepTimeModel {
    /// Share of the memory bandwidth at which weights are read (Vidur's profiles of a single token).
    static let weightReadEfficiency = 0.80
    /// Share of the memory bandwidth at which paged attention reads the KV cache: DistServe's fits of decode time have 0.53 to 0.64.
    static let contextReadEfficiency = 0.55
    /// Share of the peak that prefill attention reaches (FlashAttention-2's own measurements on A100: 0.5 to 0.7; less on H100).
    static let attentionEfficiency = 0.50
    /// Bytes read and written per token and unit of hidden width by normalisations, residuals, activations and rotary embedding,
    /// which every GPU of a group does for itself: ten passes over 16-bit values.
    static let elementwiseBytes = 20.0
    /// A step's and a sequence's share of scheduling and sampling (BLIS's fit of vLLM V1: 126 µs and 4.4 µs; and the host's turn).
    static let stepSeconds = 300e-6
    static let sequenceSeconds = 4.4e-6

    /// Duration of a step of `model` on `tensorParallel` devices of one machine.
    public init(model: ModelShape, accelerator: Accelerator, tensorParallel: Int) {
        let devices = Double(max(1, tensorParallel))
        let layers = Double(model.layers)
        let computeRate = accelerator.peakFLOPS * accelerator.matrixEfficiency * devices
        let readRate = accelerator.memoryBandwidth * Self.weightReadEfficiency * devices
        let parameters = layers * model.layerParameters

        prefillCompute = 1e9 * 2 * parameters / computeRate
        decodeCompute = prefillCompute
        weights = 1e9 * (parameters + model.headParameters) * ModelShape.bytesPerValue / readRate

        // Two all-reduces a layer, after attention and after the feed-forward part; both carry the residual stream.
        let messageBytes = Double(model.hidden) * ModelShape.bytesPerValue
        let elementwise = Double(model.hidden) * Self.elementwiseBytes / (accelerator.memoryBandwidth * Self.weightReadEfficiency)
        let start = Self.allReduceSeconds(bytes: 0, accelerator: accelerator, devices: tensorParallel)
        let exchange = Self.allReduceSeconds(bytes: messageBytes, accelerator: accelerator, devices: tensorParallel) - start
        token = 1e9 * layers * (elementwise + 2 * exchange)
        fixed = 1e9 * (layers * (accelerator.layerOverheadSeconds + 2 * start) + Self.stepSeconds)

        // Score and value products: two multiply-adds per pair and unit of query width.
        pair = 1e9 * layers * 4 * Double(model.queryWidth) / (accelerator.peakFLOPS * Self.attentionEfficiency * devices)
        context = 1e9 * model.keyValueBytesPerToken / (accelerator.memoryBandwidth * Self.contextReadEfficiency * devices)
        decodeSequence = 1e9 * (Self.sequenceSeconds + 2 * model.headParameters / computeRate)
        prefillSequence = decodeSequence
    }

    /// Duration of a ring all-reduce of `bytes` over `devices`: every device sends and receives 2(n−1)/n of them.
    static func allReduceSeconds(bytes: Double, accelerator: Accelerator, devices: Int) -> Double {
        guard devices > 1 else { return 0 }
        let share = 2 * Double(devices - 1) / Double(devices)
        return accelerator.allReduceStartSeconds + share * bytes / accelerator.allReduceBandwidth
    }

    /// Duration of one layer for `tokens`, without attention and all-reduces: what Vidur's operator profiles sum up to.
    static func layerSeconds(model: ModelShape, accelerator: Accelerator, tensorParallel: Int, tokens: Int) -> Double {
        let devices = Double(max(1, tensorParallel))
        let readRate = accelerator.memoryBandwidth * weightReadEfficiency
        let computing = 2 * model.layerParameters * Double(tokens) / (accelerator.peakFLOPS * accelerator.matrixEfficiency * devices)
        let reading = model.layerParameters * ModelShape.bytesPerValue / (readRate * devices)
        return max(computing, reading) + Double(tokens * model.hidden) * elementwiseBytes / readRate
            + accelerator.layerOverheadSeconds
    }
}
