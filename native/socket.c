/*
 * Sockets, memory and wake-up counters of the control process: what Node has no call for.
 *
 * A unix socket's path is at most 107 bytes (sun_path of sockaddr_un, unix(7)); longer ones are refused with
 * ENAMETOOLONG. A stale path, whose process is gone, is replaced: it is stale if it is a socket and nobody answers
 * there. A path that is in use, or is no socket, is left alone (EADDRINUSE).
 *
 * The channel between control process and shard is a SOCK_SEQPACKET pair: a message arrives whole, with its descriptors
 * (SCM_RIGHTS), or not at all.
 */
#include "device.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128
#define CHANNEL_BYTES (1 << 20)
#define CHANNEL_DESCRIPTORS 32
#define SOCKET_FLAGS (SOCK_NONBLOCK | SOCK_CLOEXEC)

static int unix_address(struct sockaddr_un *address, const char *path) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address->sun_path) return -ENAMETOOLONG;
    strcpy(address->sun_path, path);
    return 0;
}

static int unix_open(const char *path, int type, bool connects) {
    struct sockaddr_un address;
    int error = unix_address(&address, path);
    if (error) return error;
    int fd = socket(AF_UNIX, type | SOCKET_FLAGS, 0);
    if (fd < 0) return -errno;
    struct sockaddr *any = (struct sockaddr *)&address;
    if ((connects ? connect(fd, any, sizeof address) : bind(fd, any, sizeof address)) == 0) return fd;
    error = -errno;
    close(fd);
    return error;
}

/* Binds, replacing a path that nobody serves any more. */
static int unix_bind(const char *path, int type, int mode) {
    int fd = unix_open(path, type, false);
    if (fd == -EADDRINUSE) {
        struct stat status;
        if (lstat(path, &status) < 0 || !S_ISSOCK(status.st_mode)) return -EADDRINUSE;
        int probe = unix_open(path, type, true);
        if (probe >= 0) close(probe);
        if (probe != -ECONNREFUSED) return -EADDRINUSE;
        if (unlink(path) < 0) return -errno;
        fd = unix_open(path, type, false);
    }
    if (fd < 0) return fd;
    if (chmod(path, (mode_t)mode) == 0) return fd;
    int error = -errno;
    close(fd);
    unlink(path);
    return error;
}

int unix_listen(const char *path, int mode) {
    int fd = unix_bind(path, SOCK_STREAM, mode);
    if (fd < 0 || listen(fd, BACKLOG) == 0) return fd;
    int error = -errno;
    close(fd);
    return error;
}

int unix_connect(const char *path) { return unix_open(path, SOCK_STREAM, true); }

int unix_bind_dgram(const char *path, int mode) { return unix_bind(path, SOCK_DGRAM, mode); }

int unix_connect_dgram(const char *path) { return unix_open(path, SOCK_DGRAM, true); }

/* ---- TCP ---- */

static socklen_t tcp_address(struct sockaddr_storage *storage, const char *address, int port) {
    memset(storage, 0, sizeof *storage);
    struct sockaddr_in *v4 = (struct sockaddr_in *)storage;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)storage;
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, address, &v6->sin6_addr) != 1) return 0;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    return sizeof *v6;
}

static int tcp_open(const char *address, int port, bool connects) {
    struct sockaddr_storage storage;
    socklen_t length = tcp_address(&storage, address, port);
    if (!length) return -EINVAL;
    int fd = socket(storage.ss_family, SOCK_STREAM | SOCKET_FLAGS, 0), one = 1, failed;
    if (fd < 0) return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connects) {
        failed = connect(fd, (struct sockaddr *)&storage, length) < 0 && errno != EINPROGRESS;
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        failed = bind(fd, (struct sockaddr *)&storage, length) < 0 || listen(fd, BACKLOG) < 0;
    }
    if (!failed) return fd;
    int error = -errno;
    close(fd);
    return error;
}

int tcp_listen(const char *address, int port) { return tcp_open(address, port, false); }

int tcp_connect(const char *address, int port) { return tcp_open(address, port, true); }

int socket_accept(int fd) {
    int accepted = accept4(fd, NULL, NULL, SOCKET_FLAGS), one = 1;
    if (accepted < 0) return -errno;
    setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* a unix socket refuses it: no matter */
    return accepted;
}

int socket_peer_gone(int fd) {
    struct pollfd poll_fd = {.fd = fd, .events = POLLRDHUP};
    return poll(&poll_fd, 1, 0) > 0 && poll_fd.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

int peer_credentials(int fd, int *pid, int *uid, int *gid) {
    struct ucred credentials;
    socklen_t length = sizeof credentials;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0) return -errno;
    *pid = (int)credentials.pid;
    *uid = (int)credentials.uid;
    *gid = (int)credentials.gid;
    return 0;
}

/* ---- memory and wake-up ---- */

int memory_create(const char *name, int64_t bytes) {
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -errno;
    if (ftruncate(fd, bytes) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0) return fd;
    int error = -errno;
    close(fd);
    return error;
}

int event_create(void) {
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int event_signal(int fd) {
    uint64_t one = 1;
    return write(fd, &one, sizeof one) < 0 && errno != EAGAIN ? -errno : 0;
}

int descriptor_set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

/* ---- the channel ---- */

int channel_create(int fds[2]) {
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCKET_FLAGS, 0, fds) < 0) return -errno;
    int bytes = CHANNEL_BYTES;
    for (int i = 0; i < 2; i++) {
        if (setsockopt(fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0) /* needs CAP_NET_ADMIN */
            setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    return 0;
}

union descriptors {
    struct cmsghdr header;
    uint8_t bytes[CMSG_SPACE(CHANNEL_DESCRIPTORS * sizeof(int))];
};

int channel_send(int fd, const uint8_t *bytes, size_t length, const int *fds, int fd_count) {
    if (fd_count < 0 || fd_count > CHANNEL_DESCRIPTORS) return -EINVAL;
    union descriptors rights;
    memset(&rights, 0, sizeof rights);
    struct iovec part = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count > 0) {
        size_t size = (size_t)fd_count * sizeof *fds;
        message.msg_control = &rights;
        message.msg_controllen = CMSG_SPACE(size);
        rights.header.cmsg_level = SOL_SOCKET;
        rights.header.cmsg_type = SCM_RIGHTS;
        rights.header.cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(&rights.header), fds, size);
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int64_t channel_receive(int fd, uint8_t *bytes, size_t room, int *fds, int fd_max, int *fd_count) {
    union descriptors rights;
    struct iovec part = {bytes, room};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
    *fd_count = 0;
    ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0) return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t came = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < came; i++) {
            int received;
            memcpy(&received, CMSG_DATA(c) + i * sizeof(int), sizeof received);
            if (*fd_count < fd_max)
                fds[(*fd_count)++] = received;
            else
                close(received);
        }
    }
    return message.msg_flags & MSG_TRUNC ? -EMSGSIZE : got;
}
