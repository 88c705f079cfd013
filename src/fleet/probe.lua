-- Runs every command of the other scripts once, so that a missing right shows when a node connects and not at its first ban.
-- KEYS: a key of the node's own. ARGV: a channel without subscribers.
redis.call('TIME')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'a', 1)
redis.call('HGET', KEYS[1], 'a')
redis.call('HMGET', KEYS[1], 'a')
redis.call('HGETALL', KEYS[1])
redis.call('PERSIST', KEYS[1])
redis.call('HDEL', KEYS[1], 'a')
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], 60000)
redis.call('PEXPIREAT', KEYS[1], 1)
redis.call('PUBLISH', ARGV[1], '')
