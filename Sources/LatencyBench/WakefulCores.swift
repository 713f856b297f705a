import Foundation

/// Keeps idle cores from sleeping for as long as it lives, by the kernel's PM QoS (`/dev/cpu_dma_latency`, which cyclictest holds for the same
/// reason). A core that sleeps is late when a timer wakes it: on a virtual machine, whose host must schedule it again, by 0.1 ms at the median
/// and by milliseconds at the p99.
final class WakefulCores {
    private let descriptor: CInt

    /// Nil where the system does not let it, which mostly is root's right.
    init?() {
        descriptor = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        var bearableMicroseconds: Int32 = 0
        guard write(descriptor, &bearableMicroseconds, 4) == 4 else {
            close(descriptor)
            return nil
        }
    }

    deinit { close(descriptor) }
}
