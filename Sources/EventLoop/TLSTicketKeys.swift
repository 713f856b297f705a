import CLinux
import COpenSSL
import Glibc
import Synchronization

/// The keys that session tickets are sealed with (RFC 5077, RFC 8446 section 4.6.1): one set for all loops and listeners of the process, kept
/// over reloads of certificates, so that a client's session is known wherever its next connection lands.
///
/// A new key every hour; tickets of the two before it are still taken, then a handshake is a full one.
public final class TLSTicketKeys: Sendable {
    static let rotationNanoseconds: UInt64 = 3_600_000_000_000
    static let keptKeys = 3

    struct Key: Sendable {
        static let nameBytes = 16
        static let secretBytes = 32
        /// Name, cipher key and authentication key, one behind the other.
        var bytes = [UInt8](repeating: 0, count: nameBytes + 2 * secretBytes)
        var madeAt: UInt64
    }

    /// The newest first; empty until the first ticket.
    private let keys = Mutex<[Key]>([])

    public init() {}

    /// The key to seal with now; nil when the system has no randomness to give.
    func current(at now: UInt64) -> Key? {
        keys.withLock { keys in
            if let key = keys.first, now &- key.madeAt < Self.rotationNanoseconds { return key }
            var key = Key(madeAt: now)
            guard RAND_priv_bytes(&key.bytes, CInt(key.bytes.count)) == 1 else { return nil }
            keys.insert(key, at: 0)
            if keys.count > Self.keptKeys { keys.removeLast() }
            return key
        }
    }

    /// The key of that name, and whether a newer one has taken its place.
    func find(_ name: UnsafePointer<UInt8>, at now: UInt64) -> (key: Key, isOld: Bool)? {
        keys.withLock { keys in
            for (age, key) in keys.enumerated() where memcmp(key.bytes, name, Key.nameBytes) == 0 {
                let lifetime = Self.rotationNanoseconds &* UInt64(Self.keptKeys)
                return now &- key.madeAt < lifetime ? (key, age > 0 || now &- key.madeAt >= Self.rotationNanoseconds) : nil
            }
            return nil
        }
    }

    /// What OpenSSL asks of a ticket callback: 0 the ticket is not ours, 1 done, 2 done and to be renewed, -1 failed.
    func arm(
        name: UnsafeMutablePointer<UInt8>, iv: UnsafeMutablePointer<UInt8>, cipher: OpaquePointer?, mac: OpaquePointer?, encrypts: Bool
    ) -> CInt {
        let now = swl_monotonic_nanoseconds()
        var key: Key
        var isOld = false
        if encrypts {
            guard let current = current(at: now), RAND_bytes(iv, 16) == 1 else { return -1 }
            key = current
            memcpy(name, key.bytes, Key.nameBytes)
        } else {
            guard let found = find(name, at: now) else { return 0 }
            (key, isOld) = found
        }
        let isArmed = key.bytes.withUnsafeMutableBytes { bytes in
            let secret = bytes.baseAddress!.assumingMemoryBound(to: UInt8.self) + Key.nameBytes
            return swl_arm_ticket(cipher, mac, secret, secret + Key.secretBytes, iv, encrypts ? 1 : 0)
        }
        return isArmed == 1 ? (isOld ? 2 : 1) : -1
    }
}
