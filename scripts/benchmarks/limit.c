/* What the kernel itself can do: the same work as netns_tw's, by system calls alone.
 *
 *   limit chain            client - lb - backend built, one connection over each link
 *   limit star N           N clients around one server built, one connection from the last client
 *   limit free N [links]   N namespaces (linked as a star) dropped at once, until the last is freed
 *   limit time-wait N K    N TIME_WAIT on one server, from K client namespaces with forced source ports
 *
 * Raw rtnetlink, nothing looked up and nothing moved: each namespace is unshared by this one thread, its netlink socket
 * is made in it and kept, both ends of a veth pair are created in place with an ifindex that was chosen. Prints one
 * "name number" a line. Run it inside a sandbox: its namespaces have no names and go with it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FIRST_INDEX 1000 /* of the ends at clients and on the left; the server's and the right ones follow at 3000 */
#define PEER_INDEX 3000
#define OPERSTATE_UP 6 /* IF_OPER_UP, linux/if.h, which does not go with net/if.h */
#define MOST_NODES 1001
#define PORT 80
#define FIRST_PORT 1024
#define PORTS 64000 /* source ports taken of each client, towards each of the server's ports */

struct node { int ns, rtnl; };
struct message { char bytes[4096]; size_t length; struct nlmsghdr *head; int asked; };
static struct node nodes[MOST_NODES];

static void die(const char *what)
{
    fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_us(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        die(path);
    close(fd);
}

/* ---- rtnetlink: messages are gathered and sent together, each is acknowledged ---- */

static void *add(struct message *to, const void *data, size_t size)
{
    void *place = to->bytes + to->length;
    if (to->length + NLMSG_ALIGN(size) > sizeof to->bytes)
        die("a message is too long");
    memset(place, 0, NLMSG_ALIGN(size));
    memcpy(place, data, size);
    to->length += NLMSG_ALIGN(size);
    return place;
}

static void begin(struct message *to, int type, int flags, const void *body, size_t size)
{
    struct nlmsghdr head = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags};
    to->head = add(to, &head, sizeof head);
    to->asked++;
    add(to, body, size);
}

static void end(struct message *to) { to->head->nlmsg_len = to->bytes + to->length - (char *)to->head; }

static struct rtattr *attribute(struct message *to, int type, const void *data, size_t size)
{
    struct rtattr head = {.rta_len = RTA_LENGTH(size), .rta_type = type};
    struct rtattr *place = add(to, &head, sizeof head);
    if (size)
        add(to, data, size);
    return place;
}

static void close_nest(struct message *to, struct rtattr *nest) { nest->rta_len = to->bytes + to->length - (char *)nest; }

static void send_and_read(struct node *at, struct message *to)
{
    char answer[16384];
    if (send(at->rtnl, to->bytes, to->length, 0) < 0)
        die("send to rtnetlink");
    while (to->asked > 0) {
        int size = recv(at->rtnl, answer, sizeof answer, 0);
        if (size < 0)
            die("recv from rtnetlink");
        for (struct nlmsghdr *one = (void *)answer; NLMSG_OK(one, (unsigned)size); one = NLMSG_NEXT(one, size)) {
            struct nlmsgerr *error = NLMSG_DATA(one);
            if (one->nlmsg_type == NLMSG_ERROR && error->error) {
                errno = -error->error;
                die("rtnetlink");
            }
            to->asked--;
        }
    }
    to->length = 0;
}

static void add_veth(struct node *left, int index, const char *name, struct node *right, int peer, const char *peer_name)
{
    struct message to = {0};
    struct ifinfomsg here = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP}, there = {.ifi_index = peer};
    begin(&to, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &here, sizeof here);
    attribute(&to, IFLA_IFNAME, name, strlen(name) + 1);
    struct rtattr *info = attribute(&to, IFLA_LINKINFO, NULL, 0);
    attribute(&to, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = attribute(&to, IFLA_INFO_DATA, NULL, 0);
    struct rtattr *end_there = attribute(&to, VETH_INFO_PEER, NULL, 0);
    add(&to, &there, sizeof there);
    attribute(&to, IFLA_IFNAME, peer_name, strlen(peer_name) + 1);
    attribute(&to, IFLA_NET_NS_FD, &right->ns, sizeof right->ns);
    close_nest(&to, end_there);
    close_nest(&to, data);
    close_nest(&to, info);
    end(&to);
    send_and_read(left, &to);
}

static void ask_up(struct message *to, int index)
{
    struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    begin(to, RTM_NEWLINK, NLM_F_ACK, &link, sizeof link);
    end(to);
}

static void ask_address(struct message *to, int index, in_addr_t address)
{
    struct ifaddrmsg body = {.ifa_family = AF_INET, .ifa_prefixlen = 24, .ifa_index = index};
    begin(to, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body, sizeof body);
    attribute(to, IFA_LOCAL, &address, sizeof address);
    attribute(to, IFA_ADDRESS, &address, sizeof address);
    end(to);
}

static void bring_up(struct node *at, int index, in_addr_t address)
{
    struct message to = {0};
    ask_up(&to, index);
    ask_address(&to, index, address);
    send_and_read(at, &to);
}

/* Until the end passes its first packet: RTM_GETLINK by index runs what the kernel put off (linkwatch_sync_dev). */
static void wait_until_up(struct node *at, int index)
{
    for (int state = 0; state != OPERSTATE_UP;) {
        struct message to = {0};
        struct ifinfomsg link = {.ifi_index = index};
        char answer[16384];
        begin(&to, RTM_GETLINK, 0, &link, sizeof link);
        end(&to);
        if (send(at->rtnl, to.bytes, to.length, 0) < 0 || recv(at->rtnl, answer, sizeof answer, 0) < 0)
            die("RTM_GETLINK");
        struct nlmsghdr *head = (void *)answer;
        int left = IFLA_PAYLOAD(head);
        for (struct rtattr *one = IFLA_RTA(NLMSG_DATA(head)); RTA_OK(one, left); one = RTA_NEXT(one, left))
            if (one->rta_type == IFLA_OPERSTATE)
                state = *(unsigned char *)RTA_DATA(one);
    }
}

/* ---- namespaces and sockets ---- */

static int open_here(void)
{
    int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        die("/proc/thread-self/ns/net");
    return fd;
}

static void unshare_one(void)
{
    if (unshare(CLONE_NEWNET))
        die("unshare(CLONE_NEWNET)");
}

static void enter(int ns)
{
    if (setns(ns, CLONE_NEWNET))
        die("setns");
}

/* Make a namespace with its loopback up, and stay in it: the next sysctl written is its own. */
static void make_node(struct node *one)
{
    struct message to = {0};
    unshare_one();
    one->ns = open_here();
    one->rtnl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (one->rtnl < 0)
        die("a netlink socket");
    ask_up(&to, 1);
    send_and_read(one, &to);
}

static in_addr_t subnet_host(int subnet, int host) { return htonl(0xC6120000 | (subnet + 1) << 8 | host); }

static struct sockaddr_in place(in_addr_t address, int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = address};
}

static int tcp_socket(struct node *at)
{
    enter(at->ns);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes))
        die("socket");
    return fd;
}

static int listener(struct node *at, int port)
{
    struct sockaddr_in to = place(INADDR_ANY, port);
    int fd = tcp_socket(at);
    if (bind(fd, (void *)&to, sizeof to) || listen(fd, 1024))
        die("listen");
    return fd;
}

static int connection(struct node *from, in_addr_t source, int source_port, in_addr_t address, int port)
{
    struct sockaddr_in here = place(source, source_port), to = place(address, port);
    int fd = tcp_socket(from);
    if ((source_port && bind(fd, (void *)&here, sizeof here)) || connect(fd, (void *)&to, sizeof to))
        die("connect");
    return fd;
}

static void link_nodes(struct node *left, int left_index, const char *left_name, struct node *right, int right_index,
                       const char *right_name, int subnet)
{
    struct message to = {0};
    add_veth(left, left_index, left_name, right, right_index, right_name);
    ask_address(&to, left_index, subnet_host(subnet, 2));
    send_and_read(left, &to);
    bring_up(right, right_index, subnet_host(subnet, 1));
}

/* nodes[0] is the server, client n has 198.18.n+1.2 and the server 198.18.n+1.1; as many veth pairs as clients. */
static void build_star(int clients)
{
    char name[IFNAMSIZ];
    for (int n = 0; n <= clients; n++)
        make_node(&nodes[n]);
    for (int n = 0; n < clients; n++) {
        snprintf(name, sizeof name, "eth%d", n);
        link_nodes(&nodes[n + 1], FIRST_INDEX + n, "eth0", &nodes[0], PEER_INDEX + n, name, n);
    }
    for (int n = 0; n < clients; n++) {
        wait_until_up(&nodes[n + 1], FIRST_INDEX + n);
        wait_until_up(&nodes[0], PEER_INDEX + n);
    }
}

/* ---- the four measurements ---- */

static void chain(void)
{
    double began = now_us();
    struct node *client = &nodes[0], *lb = &nodes[1], *backend = &nodes[2];
    for (int n = 0; n < 3; n++) {
        make_node(&nodes[n]);
        write_file("/proc/sys/net/ipv4/tcp_tw_reuse", "0");
        if (&nodes[n] == lb)
            write_file("/proc/sys/net/ipv4/ip_local_port_range", "1024 1026");
    }
    link_nodes(client, FIRST_INDEX, "eth0", lb, PEER_INDEX, "eth0", 0);
    link_nodes(lb, FIRST_INDEX + 1, "eth1", backend, PEER_INDEX + 1, "eth0", 1);
    wait_until_up(client, FIRST_INDEX);
    wait_until_up(lb, PEER_INDEX);
    wait_until_up(lb, FIRST_INDEX + 1);
    wait_until_up(backend, PEER_INDEX + 1);
    double built = now_us();
    listener(lb, PORT);
    listener(backend, PORT);
    connection(client, 0, 0, subnet_host(0, 1), PORT);
    connection(lb, 0, 0, subnet_host(1, 1), PORT);
    double done = now_us();
    printf("first_packet_us %.0f\nof_it_after_set_up_us %.0f\n", done - began, done - built);
}

static void star(int clients)
{
    double began = now_us();
    build_star(clients);
    printf("built_us %.0f\n", now_us() - began);
    listener(&nodes[0], PORT);
    connection(&nodes[clients], 0, 0, subnet_host(clients - 1, 1), PORT);
    printf("first_packet_us %.0f\n", now_us() - began);
}

/* When is a namespace freed? The kernel counts those of each user namespace (user.max_net_namespaces), and counts one
 * less at the very end of cleanup_net(), after all that the namespace had is gone. In a user namespace of our own, with
 * one namespace that stays and a limit of two, unshare() succeeds when the last of the others has been freed. */
static void free_all(int count, int is_linked)
{
    char map[64];
    struct timespec pause = {.tv_nsec = 200000};
    snprintf(map, sizeof map, "%d %d 1", geteuid(), geteuid());
    if (unshare(CLONE_NEWUSER))
        die("unshare(CLONE_NEWUSER)");
    write_file("/proc/self/setgroups", "deny");
    write_file("/proc/self/uid_map", map);
    unshare_one();
    int stays = open_here();
    if (is_linked)
        build_star(count - 1);
    else
        for (int n = 0; n < count; n++)
            make_node(&nodes[n]);
    enter(stays);
    write_file("/proc/sys/user/max_net_namespaces", "2");
    if (!unshare(CLONE_NEWNET)) {
        fprintf(stderr, "limit: the count of namespaces is not what it must be\n");
        exit(1);
    }
    double began = now_us();
    for (int n = 0; n < count; n++) {
        close(nodes[n].rtnl);
        close(nodes[n].ns);
    }
    double dropped = now_us();
    while (unshare(CLONE_NEWNET)) {
        if (errno != ENOSPC)
            die("unshare(CLONE_NEWNET)");
        nanosleep(&pause, NULL);
    }
    printf("dropped_us %.0f\nfreed_us %.0f\n", dropped - began, now_us() - began);
}

/* The server closes first, so its end waits; the client reads that FIN before it closes, so its end does not. */
static void time_wait(int count, int clients)
{
    int ports = count / clients / PORTS + 1, listeners[64], seen = -1;
    char text[1024], byte, *at;
    if (ports > 64)
        exit(2);
    build_star(clients);
    enter(nodes[0].ns);
    write_file("/proc/sys/net/ipv4/tcp_max_tw_buckets", "4194304");
    for (int n = 0; n < ports; n++)
        listeners[n] = listener(&nodes[0], PORT + n);
    double began = now_us();
    for (int n = 0; n < count; n++) {
        int client = n % clients, turn = n / clients, port = turn / PORTS;
        int mine = connection(&nodes[client + 1], subnet_host(client, 2), FIRST_PORT + turn % PORTS,
                              subnet_host(client, 1), PORT + port);
        int theirs = accept(listeners[port], NULL, NULL);
        if (theirs < 0 || close(theirs) || read(mine, &byte, 1) != 0 || close(mine))
            die("a connection's end");
    }
    double took = now_us() - began;
    enter(nodes[0].ns);
    int fd = open("/proc/thread-self/net/sockstat", O_RDONLY | O_CLOEXEC);
    ssize_t size = read(fd, text, sizeof text - 1);
    text[size > 0 ? size : 0] = 0;
    if ((at = strstr(text, " tw ")))
        seen = atoi(at + 4);
    printf("per_s %.0f\ntime_wait %d\n", count * 1e6 / took, seen);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    int count = argc > 2 ? atoi(argv[2]) : 0, clients = argc > 3 ? atoi(argv[3]) : 0;
    if (!strcmp(mode, "chain") && argc == 2)
        chain();
    else if (!strcmp(mode, "star") && count > 0 && count <= 200)
        star(count);
    else if (!strcmp(mode, "free") && count > 1 && count <= 200)
        free_all(count, argc > 3);
    else if (!strcmp(mode, "time-wait") && count > 0 && count <= 2000000 && clients > 0 && clients <= 200)
        time_wait(count, clients);
    else {
        fprintf(stderr, "usage: limit chain | star N | free N [links] | time-wait N K\n");
        return 2;
    }
    return 0;
}
