/* The columns of a record, in the order of contract/features.py; Python compares the names before it uses the library. */
#ifndef KW_FEATURES_H
#define KW_FEATURES_H

#define STATISTICS(F, who, what, unit) \
    F(who##_##what##_min##unit) F(who##_##what##_max##unit) F(who##_##what##_mean##unit) F(who##_##what##_std##unit)
#define FLAGS(F, who) \
    F(who##_syn_pkts) F(who##_ack_pkts) F(who##_fin_pkts) F(who##_rst_pkts) F(who##_psh_pkts) F(who##_urg_pkts)
#define FEATURES(F) \
    F(proto_tcp) F(proto_udp) F(proto_icmp) \
    F(fwd_pkts) F(bwd_pkts) F(fwd_bytes) F(bwd_bytes) \
    F(fwd_payload_bytes) F(bwd_payload_bytes) F(fwd_payload_pkts) F(bwd_payload_pkts) \
    F(duration_s) F(fwd_duration_s) F(bwd_duration_s) \
    F(bytes_per_s) F(pkts_per_s) F(fwd_bytes_per_s) F(bwd_bytes_per_s) F(down_up_ratio) \
    STATISTICS(F, all, len, ) STATISTICS(F, fwd, len, ) STATISTICS(F, bwd, len, ) \
    STATISTICS(F, all, iat, _s) STATISTICS(F, fwd, iat, _s) STATISTICS(F, bwd, iat, _s) \
    FLAGS(F, fwd) FLAGS(F, bwd) \
    F(fwd_init_win) F(bwd_init_win) F(handshake_done) F(fwd_retrans_pkts) F(bwd_retrans_pkts) \
    F(mqtt_connect_pkts) F(mqtt_publish_pkts) F(mqtt_subscribe_pkts) F(coap_request_pkts) F(coap_response_pkts) \
    F(dns_query_pkts) F(dns_failure_pkts) F(discovery_pkts) F(tls_hello_pkts) F(dhcp_pkts) \
    F(initiator_flows) F(initiator_peers) F(initiator_ports) F(initiator_failed) F(initiator_new_peers) \
    F(initiator_peer_entropy_bits) F(initiator_port_entropy_bits)

#define AS_INDEX(name) AT_##name,
#define AS_TEXT(name) #name " "
enum { FEATURES(AS_INDEX) N_FEATURES };

#endif
